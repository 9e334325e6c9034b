"""The native extension ``spectral_pd._C``; everything static is in pyproject.toml.

Without a compiler (or torch's headers) the package installs and runs on plain torch. Environment variables:

SPECTRAL_PD_REQUIRE_EXT  1: a failed build of the extension fails the install.
SPECTRAL_PD_CUDA         auto (default): CUDA kernels are built where a CUDA toolkit is found and torch is a CUDA build, and
                         left out, with a word, where they do not build; 0: never; 1: always, and anything that keeps
                         them from being built fails the install. A GPU is not needed, nor, with 1, a CUDA build of torch.
"""

import os
import platform
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).parent
sys.path.append(str(ROOT / "build_tools"))
from backend import source_hash  # noqa: E402

CUDA = os.environ.get("SPECTRAL_PD_CUDA", "auto")
REQUIRED = os.environ.get("SPECTRAL_PD_REQUIRE_EXT") == "1" or CUDA == "1"
CUDA_ARCHITECTURES = (80, 90, 100, 120)  # those of them that nvcc knows; later GPUs compile the last one's PTX
NVCC_FLAGS = ["-std=c++17", "-O3", "-Icsrc", "--threads=4"]  # never --use_fast_math: the noise must be exact
STABLE_ABI = "0x020b000000000000"  # torch 2.11

CXX_FLAGS = [
    "-std=c++17",
    "-O3",
    "-DNDEBUG",
    "-ffp-contract=off",
    "-fvisibility=hidden",
    "-Wall",
    "-Wno-maybe-uninitialized",
]
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


@dataclass(frozen=True)
class CudaToolkit:
    """An nvcc, the toolkit it belongs to (which a wrapper or link on PATH may hide), the architectures it can compile."""

    nvcc: str
    library: Path
    architectures: tuple[int, ...]

    @classmethod
    def find(cls) -> "CudaToolkit":
        """The toolkit of PATH or CUDA_HOME; FileNotFoundError says what is missing."""
        home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH") or "/usr/local/cuda"
        nvcc = shutil.which("nvcc") or shutil.which("nvcc", path=os.path.join(home, "bin"))
        if nvcc is None:
            raise FileNotFoundError("no nvcc on PATH or in CUDA_HOME")
        # nvcc tells where it lives and what it compiles.
        told = subprocess.run([nvcc, "--dryrun", "none.cu"], capture_output=True, text=True, check=False).stderr
        here = re.search(r"^#\$ _HERE_=(.*)$", told, re.MULTILINE)
        toolkit = (Path(here.group(1)) if here else Path(nvcc).resolve().parent).parent
        library = next((toolkit / n for n in ("lib64", "lib") if (toolkit / n / "libcudart_static.a").exists()), None)
        if library is None or not (toolkit / "include" / "cuda_runtime.h").exists():
            raise FileNotFoundError(f"no cuda_runtime.h or libcudart_static.a in {toolkit}, the toolkit of {nvcc}")
        known = subprocess.run([nvcc, "--list-gpu-arch"], capture_output=True, text=True, check=True).stdout
        return cls(nvcc, library, tuple(a for a in CUDA_ARCHITECTURES if f"compute_{a}" in known.split()))

    def compile(self, source: str, target: Path, include: list[str], macros: list[str]) -> None:
        codes = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in self.architectures]
        ptx = f"-gencode=arch=compute_{self.architectures[-1]},code=compute_{self.architectures[-1]}"
        subprocess.run(
            [self.nvcc, *NVCC_FLAGS, *codes, ptx, "-Xcompiler=-fPIC,-fvisibility=hidden"]
            + [f"-D{macro}" for macro in macros]
            + [f"-isystem={folder}" for folder in include]
            + ["-c", source, "-o", str(target)],
            check=True,
        )


def cuda_toolkit(torch_cuda: str | None) -> CudaToolkit | None:
    """The toolkit that builds the CUDA half, or None for a CPU-only extension."""
    if CUDA not in ("auto", "0", "1"):
        raise SystemExit(f"SPECTRAL_PD_CUDA = {CUDA!r} must be auto, 0 or 1")
    if CUDA == "0" or (CUDA == "auto" and torch_cuda is None):
        say(f"CUDA kernels left out ({'SPECTRAL_PD_CUDA=0' if CUDA == '0' else 'torch is a CPU build'})")
        return None
    try:
        return CudaToolkit.find()
    except (OSError, subprocess.SubprocessError) as error:
        if CUDA == "1":
            raise SystemExit(f"SPECTRAL_PD_CUDA=1, but the CUDA kernels cannot be built: {error}") from error
        say(f"CUDA kernels left out ({error})")
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

    toolkit = cuda_toolkit(torch.version.cuda)

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

            def compile_cuda() -> str | None:
                target = folder / "cuda_ops.o"
                macros = ["USE_CUDA", f"TORCH_TARGET_VERSION={STABLE_ABI}"]
                try:
                    toolkit.compile("csrc/cuda_ops.cu", target, cpp_extension.include_paths(), macros)
                except subprocess.CalledProcessError as error:
                    if CUDA == "1":
                        raise
                    say(f"CUDA kernels left out (nvcc exited with {error.returncode})")
                    return None
                return str(target)

            extension = self.extensions[0]
            with ThreadPoolExecutor(min(os.cpu_count() or 1, 1 + len(CPU_KERNELS))) as pool:
                cuda = pool.submit(compile_cuda) if toolkit else None
                extension.extra_objects = list(pool.map(compile_kernels, CPU_KERNELS))
                if cuda and (target := cuda.result()):
                    extension.extra_objects.append(target)
                    extension.library_dirs.append(str(toolkit.library))
                    extension.libraries += ["cudart_static", "rt", "dl", "pthread"]
                    built_for = " ".join(f"sm_{a}" for a in toolkit.architectures)
                    extension.define_macros.append(("SPECTRAL_PD_CUDA", f'"{built_for}"'))
            super().build_extensions()

    return {
        "ext_modules": [
            cpp_extension.CppExtension(
                "spectral_pd._C",
                ["csrc/ops.cpp", "csrc/cpu_dispatch.cpp"],
                py_limited_api=True,
                define_macros=[
                    ("TORCH_TARGET_VERSION", STABLE_ABI),
                    ("SPECTRAL_PD_SOURCES", f'"{source_hash(ROOT)}"'),
                ],
                depends=sorted(str(path.relative_to(ROOT)) for path in (ROOT / "csrc").iterdir()),
                # libtorch.so draws in libtorch_cuda where torch has it, so that a weak CUDA symbol can be bound.
                extra_link_args=["-Wl,--no-as-needed", "-ltorch"],
                extra_compile_args={"cxx": [*CXX_FLAGS, "-Icsrc"]},
            )
        ],
        "cmdclass": {"build_ext": Build},
        "options": {"bdist_wheel": {"py_limited_api": "cp310"}},
    }


setup(**extension())
