"""The operating systems that loaderlab runs on."""


def unsupported(platform: str) -> str:
    """Why loaderlab does not run on a platform, and what to use instead; empty if it may run there.

    Linux is supported and tested. macOS may work but is untested. Windows has neither SIGUSR1, which ends a job after its
    time limit, nor fork. WSL2 is Linux.

    Args:
        platform: as in `sys.platform`: linux, darwin, win32.
    """
    if platform == "win32":
        return "loaderlab does not run on Windows: it needs the signals of Linux. Run it in WSL2, which is Linux"
    return ""
