"""The native extension ``spectral_pd._C``; everything static is in pyproject.toml.

Without a compiler (or torch's headers) the package installs and runs on plain torch. Environment variables:

SPECTRAL_PD_REQUIRE_EXT  1: a failed build of the extension fails the install.
SPECTRAL_PD_CUDA         auto (default): CUDA kernels are built where nvcc is found and torch is a CUDA build; 0: never;
                         1: always, and failure is an error (a CPU build of torch has all the headers it takes).
"""

import os
import platform
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import setup

REQUIRED = os.environ.get("SPECTRAL_PD_REQUIRE_EXT") == "1"
CUDA = os.environ.get("SPECTRAL_PD_CUDA", "auto")
CUDA_ARCHITECTURES = "8.0;9.0;10.0;12.0+PTX"
CUDA_SOURCES = sorted(str(path) for path in Path("csrc").glob("*.cu"))
STABLE_ABI = "0x020b000000000000"  # torch 2.11

CXX_FLAGS = ["-std=c++17", "-O3", "-ffp-contract=off", "-fvisibility=hidden", "-Wall", "-Wno-maybe-uninitialized"]
# CPU kernels: one source, compiled for each instruction set and chosen at run time.
AVX512 = [
    "-mavx512f",
    "-mavx512bw",
    "-mavx512dq",
    "-mavx512vl",
    "-mavx2",
    "-mfma",
    "-mf16c",
    "-mprefer-vector-width=512",
]
X86_KERNELS = {"cpu_avx2.cpp": ["-mavx2", "-mfma", "-mf16c"], "cpu_avx512.cpp": AVX512}
CPU_KERNELS = {"cpu_baseline.cpp": [], **(X86_KERNELS if platform.machine() in ("x86_64", "AMD64") else {})}


def say(message: str) -> None:
    print(f"spectral_pd: {message}", file=sys.stderr)


def cuda_home(torch_cuda: str | None) -> Path | None:
    """Toolkit folder whose nvcc builds the CUDA half, or None for a CPU-only extension."""
    if CUDA not in ("auto", "0", "1"):
        raise SystemExit(f"SPECTRAL_PD_CUDA = {CUDA!r} must be auto, 0 or 1")
    nvcc = shutil.which("nvcc") or shutil.which("nvcc", path=os.path.join(os.environ.get("CUDA_HOME", ""), "bin"))
    if CUDA == "0":
        reason = "SPECTRAL_PD_CUDA=0"
    elif nvcc is None:
        reason = "no nvcc on PATH or in CUDA_HOME"
    elif CUDA == "auto" and torch_cuda is None:
        reason = "torch is a CPU build"
    else:
        # nvcc on PATH may be a wrapper; where its toolkit lies, it says itself.
        plan = subprocess.run([nvcc, "--dryrun", CUDA_SOURCES[0]], capture_output=True, text=True).stderr
        top = next((line.split("=", 1)[1] for line in plan.splitlines() if line.startswith("#$ TOP=")), None)
        return Path(top or Path(nvcc).parent.parent).resolve()
    if CUDA == "1":
        raise SystemExit(f"SPECTRAL_PD_CUDA=1, but there is {reason}")
    say(f"CUDA kernels left out ({reason})")
    return None


def extension() -> dict:
    """Arguments of setup() for the extension; none where torch cannot be imported."""
    try:
        import torch
        from torch.utils import cpp_extension
    except ImportError as error:
        if REQUIRED:
            raise
        say(f"native operations not built ({error}); the package runs on plain torch")
        return {}

    home = cuda_home(torch.version.cuda)
    flags = {"cxx": [*CXX_FLAGS, "-Icsrc"]}
    macros = [("TORCH_TARGET_VERSION", STABLE_ABI)]
    sources = ["csrc/ops.cpp", "csrc/cpu_dispatch.cpp"]
    libraries: dict[str, list[str]] = {}
    if home is not None:
        architectures = os.environ.setdefault("TORCH_CUDA_ARCH_LIST", CUDA_ARCHITECTURES)
        cpp_extension.CUDA_HOME = str(home)  # a CPU build of torch leaves it None; its headers suffice
        sources += CUDA_SOURCES
        macros += [("USE_CUDA", None), ("SPECTRAL_PD_CUDA", f'"{architectures}"')]
        flags["nvcc"] = ["-std=c++17", "-O3", "-Icsrc", "--threads=2"]  # never --use_fast_math: the noise must be exact
        libraries = {
            "include_dirs": [f"{home}/include"],
            "library_dirs": [f"{home}/lib64", f"{home}/lib"],
            "libraries": ["cudart_static", "rt", "dl", "pthread"],
        }

    class Build(cpp_extension.BuildExtension):
        """Compiles the CPU kernels with their own flags first; survives a missing compiler unless told not to."""

        def run(self) -> None:
            try:
                super().run()
            except (Exception, SystemExit) as error:
                if REQUIRED:
                    raise
                say(f"native operations not built ({type(error).__name__}: {error}); the package runs on plain torch")
                self.extensions = []

        def build_extensions(self) -> None:
            folder = Path(self.build_temp)
            folder.mkdir(parents=True, exist_ok=True)
            compiler = cpp_extension.get_cxx_compiler()

            def compile_kernels(name: str) -> str:
                target = str(folder / Path(name).with_suffix(".o"))
                command = [
                    *compiler.split(),
                    "-fPIC",
                    *CXX_FLAGS,
                    *CPU_KERNELS[name],
                    "-Icsrc",
                    "-c",
                    f"csrc/{name}",
                    "-o",
                    target,
                ]
                subprocess.run(command, check=True)
                return target

            with ThreadPoolExecutor(2) as pool:
                self.extensions[0].extra_objects = list(pool.map(compile_kernels, CPU_KERNELS))
            super().build_extensions()

    return {
        "ext_modules": [
            cpp_extension.CppExtension(
                "spectral_pd._C",
                sources,
                py_limited_api=True,
                define_macros=macros,
                # libtorch.so draws in libtorch_cuda where torch has it, so that a weak CUDA symbol can be bound.
                extra_link_args=["-Wl,--no-as-needed", "-ltorch"],
                extra_compile_args=flags,
                **libraries,
            )
        ],
        "cmdclass": {"build_ext": Build},
        "options": {"bdist_wheel": {"py_limited_api": "cp310"}},
    }


setup(**extension())
