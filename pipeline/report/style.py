"""How the page looks: one column on a phone, two or three on a screen, in dark and in light."""

from __future__ import annotations

from pipeline.report.html import Html

# Curves: Okabe and Ito's colours, which those who see no red or no green can tell apart, made
# darker on light pages and lighter on dark ones (jfly.uni-koeln.de/color).
STYLE = Html("""
:root { color-scheme: light dark;
  --page: #fff; --ink: #1b1f24; --soft: #57606a; --line: #d8dee4; --box: #f6f8fa; --warn: #9a3412;
  --c0: #0072b2; --c1: #c2500a; --c2: #00785a; --c3: #a8507f;
  --c4: #8a6d00; --c5: #2b83ba; --c6: #5b4b9a; --c7: #444b52; --heat: 0 114 178; }
@media (prefers-color-scheme: dark) { :root {
  --page: #0d1117; --ink: #e6edf3; --soft: #9aa4af; --line: #30363d; --box: #161b22;
  --warn: #ffb38a;
  --c0: #58b2ee; --c1: #f39a56; --c2: #35c79c; --c3: #e09bc4;
  --c4: #e3c64a; --c5: #9ad3f5; --c6: #b3a5f0; --c7: #b8c0c8; --heat: 88 178 238; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 76rem; background: var(--page); color: var(--ink);
  font: 1rem/1.45 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; margin: 0 0 .25rem; }
h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; padding-top: .75rem;
  border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.25rem 0 .4rem; }
p { margin: .4rem 0; } .soft { color: var(--soft); } .warn { color: var(--warn); }
code, pre { font: .85em/1.5 ui-monospace, monospace; white-space: pre-wrap; }
pre { background: var(--box); padding: .6rem .8rem; border-radius: 6px; margin: .4rem 0; }
.tiles { display: grid; gap: .6rem; margin: 1rem 0; padding: 0;
  grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr)); }
.tiles > div { background: var(--box); border-radius: 6px; padding: .5rem .75rem; }
.tiles dt { color: var(--soft); font-size: .85rem; }
.tiles dd { margin: 0; font-size: 1.2rem; font-weight: 600; white-space: nowrap; }
.tiles dd small { display: block; font-size: .8rem; font-weight: 400; color: var(--soft);
  white-space: normal; }
.charts { display: grid; gap: 1.25rem 1.5rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 21rem), 1fr)); }
.sides { display: grid; gap: 0 2rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); }
.sides > * { min-width: 0; }
figure { margin: 0; } figcaption { font-weight: 600; font-size: .95rem; }
svg { display: block; width: 100%; height: auto; }
svg text { fill: var(--soft); font: 11px system-ui, sans-serif; }
.grid { stroke: var(--line); stroke-width: .6; } .axis { stroke: var(--soft); stroke-width: .8; }
.curve { fill: none; stroke: var(--c); stroke-width: 1.6; stroke-linejoin: round; }
.dashed .curve { stroke-dasharray: 5 3; } circle { fill: var(--c); }
.mark.start { stroke: var(--soft); stroke-width: 1.2; stroke-dasharray: 2 3; }
.mark.checkpoint { stroke: var(--soft); stroke-width: 1.4; }
.c0 { --c: var(--c0); } .c1 { --c: var(--c1); } .c2 { --c: var(--c2); } .c3 { --c: var(--c3); }
.c4 { --c: var(--c4); } .c5 { --c: var(--c5); } .c6 { --c: var(--c6); } .c7 { --c: var(--c7); }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: .1rem 1rem; margin: .1rem 0 .3rem;
  padding: 0; font-size: .85rem; color: var(--soft); }
.legend i { display: inline-block; width: 1.4rem; margin-right: .4rem; vertical-align: middle;
  border-top: 2.5px solid var(--c); }
.legend i.dashed { border-top-style: dashed; }
.legend i.mark { width: 0; height: 1em; border: 0; border-left: 2px dotted var(--soft); }
.legend i.checkpoint { height: .6em; border-left-style: solid; }
.wide { overflow-x: auto; max-width: 100%; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .7rem .2rem 0; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--line); }
thead th { color: var(--soft); font-weight: 500; overflow-wrap: normal; }
tbody th { font-weight: 500; min-width: 5rem; } .matrix tbody th { min-width: 0; }
.numbers td, .numbers thead th + th { text-align: right; white-space: nowrap; }
.matrix { font-size: .75rem; } .matrix th, .matrix td { border: 0; }
.matrix td { text-align: center; padding: .25rem .1rem; min-width: 1.7rem;
  background: rgb(var(--heat) / var(--share)); }
.matrix td.strong { color: #fff; } .matrix td.none { color: var(--soft); }
.matrix tbody th { max-width: 9rem; padding-right: .4rem; text-align: right; font-weight: 400;
  white-space: nowrap; overflow: hidden; text-overflow: ellipsis; }
.matrix thead th { font-weight: 400; text-align: center; vertical-align: bottom; padding: 0; }
.matrix.long thead span { display: inline-block; max-height: 8rem; padding: .3rem 0;
  writing-mode: vertical-rl; transform: rotate(180deg); text-align: left; }
@media (prefers-color-scheme: dark) { .matrix td.strong { color: #06131d; } }
.heat { width: min(100%, 34rem); height: auto; image-rendering: pixelated;
  border: 1px solid var(--line); background: var(--box); display: block; }
.bar { display: inline-block; width: 7rem; height: .7em; background: var(--line);
  border-radius: 2px; overflow: hidden; }
.bar i { display: block; height: 100%; background: var(--c0); }
.pictures { list-style: none; padding: 0; margin: .5rem 0; display: grid; gap: .8rem;
  grid-template-columns: repeat(auto-fill, minmax(7.2rem, 1fr)); font-size: .82rem; }
.pictures img, .rows img { background: var(--box); border-radius: 4px; }
.tiny { image-rendering: pixelated; }
.pictures img { width: 100%; height: auto; max-width: 8rem; display: block; }
.pictures.large { grid-template-columns: repeat(auto-fill, minmax(12rem, 1fr)); }
.pictures.large img { max-width: 100%; } .pictures .bar { width: 2.5rem; }
.rows td { border: 0; padding: .15rem .3rem .15rem 0; } .rows th { border: 0; max-width: 8rem; }
.rows img { width: 4.2rem; height: auto; display: block; }
details { margin: .6rem 0; } summary { cursor: pointer; color: var(--soft); }
@media (max-width: 30rem) { body { padding: .75rem; } .rows th { max-width: 5rem; }
  .rows img { width: 3.4rem; } .bar { width: 4.5rem; } th, td { padding-right: .5rem; }
  .matrix tbody th { max-width: 5.5rem; }
  .matrix td { min-width: 1.35rem; padding: .2rem 0; } .matrix { font-size: .7rem; } }
@media print { details > * { display: block; } }
""")
