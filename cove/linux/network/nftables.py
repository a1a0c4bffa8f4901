"""The nf_tables firewall by libnftables: a program of rules is carried out whole or not at all."""

from __future__ import annotations

import threading
from typing import Any

from cove.errors import HostError

LIBRARY = "libnftables.so.1"
JSON = 1 << 4
"""NFT_CTX_OUTPUT_JSON"""


class Nftables:
    """Of the network namespace of the thread that first uses it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._library: Any = None
        self._context: Any = None

    def run(self, program: str) -> str:
        """The error's text, empty when it was carried out.

        Raises:
            HostError: there is no libnftables.
        """
        with self._lock:
            if self._context is None:
                self._open()
            data = program.encode()
            if self._library.nft_run_cmd_from_buffer(self._context, data) == 0:
                self._library.nft_ctx_get_error_buffer(self._context)
                return ""
            said = self._library.nft_ctx_get_error_buffer(self._context) or b"refused"
            return " ".join(said.decode("utf-8", "replace").split())

    def read(self, program: str) -> str:
        """What it lists, as JSON; empty where that is not there."""
        with self._lock:
            if self._context is None:
                self._open()
            self._library.nft_ctx_output_set_flags(self._context, JSON)
            try:
                failed = self._library.nft_run_cmd_from_buffer(self._context, program.encode())
                found = self._library.nft_ctx_get_output_buffer(self._context) or b""
                self._library.nft_ctx_get_error_buffer(self._context)
            finally:
                self._library.nft_ctx_output_set_flags(self._context, 0)
            return "" if failed else str(found.decode("utf-8", "replace"))

    def close(self) -> None:
        with self._lock:
            if self._context is not None:
                self._library.nft_ctx_free(self._context)
                self._context = None

    def _open(self) -> None:
        import ctypes

        try:
            library = ctypes.CDLL(LIBRARY)
        except OSError as error:
            raise HostError(
                "cannot use networks: there is no libnftables, which keeps machines apart",
                host=f"{LIBRARY} cannot be loaded",
                hint="apt install libnftables1, or use --network none",
            ) from error
        library.nft_ctx_new.restype = ctypes.c_void_p
        for name in ("nft_ctx_free", "nft_ctx_buffer_error", "nft_ctx_buffer_output",
                     "nft_ctx_get_error_buffer", "nft_ctx_get_output_buffer"):  # fmt: skip
            getattr(library, name).argtypes = [ctypes.c_void_p]
        library.nft_ctx_get_error_buffer.restype = ctypes.c_char_p
        library.nft_ctx_get_output_buffer.restype = ctypes.c_char_p
        library.nft_ctx_output_set_flags.argtypes = [ctypes.c_void_p, ctypes.c_uint]
        library.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
        context = library.nft_ctx_new(0)
        library.nft_ctx_buffer_error(context)
        library.nft_ctx_buffer_output(context)
        self._library, self._context = library, context
