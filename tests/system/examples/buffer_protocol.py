import numpy as np
from mooncake.store import MooncakeDistributedStore

store = MooncakeDistributedStore()
store.setup("localhost", "http://localhost:8080/metadata", 512*1024*1024, 128*1024*1024, "tcp", "", "localhost:50051")

array = np.arange(1_000_000, dtype=np.float32)
store.put("large_object", array.tobytes())

buffer = store.get_buffer("large_object")
if buffer:
    print(f"Buffer size: {buffer.size()} bytes")
    # Access data without copying
    view = memoryview(buffer)
    restored = np.frombuffer(view, dtype=np.float32)
    print("match:", np.array_equal(array, restored), "ptr:", buffer.ptr() != 0, "len:", len(buffer))
    # Buffer automatically freed when it goes out of scope
    del restored, view, buffer

print("missing:", store.get_buffer("no such key"))
store.close()
