"""Learning-rate schedule and AdamW."""
