// Stands in for a header that TensorFlow no longer ships under this name, so
// that Horovod 0.28.1 (horovod/tensorflow/xla_mpi_ops.cc) compiles unpatched.
// XLA moved out of tensorflow/compiler, and replaced its own Status and
// StatusOr by Abseil's. Checked on TensorFlow 2.21.
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

#endif  // TOOLS_HOROVOD_HEADERS_XLA_BUILDER_H_
