// Stands in for a header that TensorFlow no longer ships under this name, so
// that Horovod 0.28.1 (horovod/tensorflow/xla_mpi_ops.cc) compiles unpatched.
// XLA moved out of tensorflow/compiler, and replaced its own Status and
// StatusOr by Abseil's. Checked on TensorFlow 2.21.
//
// It also defines a function of TensorFlow's that is gone and that Horovod's
// mpi_ops.cc declares and calls: without it the GPU build compiles and links,
// but does not load. This is the place, since exactly one source file of
// Horovod includes this header.
#ifndef TOOLS_HOROVOD_HEADERS_XLA_BUILDER_H_
#define TOOLS_HOROVOD_HEADERS_XLA_BUILDER_H_

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "xla/hlo/builder/xla_builder.h"

namespace xla {
using Status = ::absl::Status;
template <typename T>
using StatusOr = ::absl::StatusOr<T>;
}  // namespace xla

#if HAVE_CUDA
#include <cuda_runtime.h>

#include "xla/stream_executor/stream.h"

namespace stream_executor {
namespace gpu {
// The CUDA stream behind TensorFlow's.
cudaStream_t AsGpuStreamValue(Stream* stream) {
  return static_cast<cudaStream_t>(stream->platform_specific_handle().stream);
}
}  // namespace gpu
}  // namespace stream_executor
#endif  // HAVE_CUDA

#endif  // TOOLS_HOROVOD_HEADERS_XLA_BUILDER_H_
