// An operator that takes a given time without a processor: it sleeps, then gives back what it was given.
#include <chrono>
#include <cstring>
#include <thread>

#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

static ffi::Error Wait(float seconds, ffi::AnyBuffer given, ffi::Result<ffi::AnyBuffer> same) {
  std::this_thread::sleep_for(std::chrono::duration<float>(seconds));
  std::memcpy(same->untyped_data(), given.untyped_data(), given.size_bytes());
  return ffi::Error::Success();
}

XLA_FFI_DEFINE_HANDLER_SYMBOL(
    PlannerWait, Wait,
    ffi::Ffi::Bind().Attr<float>("seconds").Arg<ffi::AnyBuffer>().Ret<ffi::AnyBuffer>());
