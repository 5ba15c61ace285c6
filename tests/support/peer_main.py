"""The other side of processes.Peer: reads calls from stdin, writes results to what was stdout. Ends with its input."""

import os
import pickle
import struct
import sys
import traceback


def main() -> None:
    from mooncake.store import MooncakeDistributedStore

    results = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # prints go to the log
    requests = sys.stdin.buffer
    store = MooncakeDistributedStore()
    while len(head := requests.read(8)) == 8:
        request = pickle.loads(requests.read(struct.unpack("<Q", head)[0]))
        try:
            if request[0] == "call":
                _, name, args, kwargs = request
                answer = (True, getattr(store, name)(*args, **kwargs))
            else:
                _, name, source, args = request
                scope: dict = {"__name__": "peer"}
                exec(compile(source, f"<{name}>", "exec"), scope)
                answer = (True, scope[name](store, *args))
        except Exception:
            answer = (False, traceback.format_exc())
        try:
            data = pickle.dumps(answer)
        except Exception:
            data = pickle.dumps((False, f"the result of {request[1]} cannot travel: {answer[1]!r}"))
        results.write(struct.pack("<Q", len(data)) + data)
        results.flush()


if __name__ == "__main__":
    main()
