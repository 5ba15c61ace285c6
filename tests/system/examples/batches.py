import numpy as np
from mooncake.store import MooncakeDistributedStore

store = MooncakeDistributedStore()
store.setup("localhost", "http://localhost:8080/metadata", 512*1024*1024, 128*1024*1024, "tcp", "", "localhost:50051")

# Batch put and get
keys = ["key1", "key2", "key3"]
values = [b"value1", b"value2", b"value3"]
result = store.put_batch(keys, values)
retrieved = store.get_batch(keys)
print("batch:", result, retrieved)
print("exist:", store.batch_is_exist(keys + ["absent"]))

# Batch zero-copy operations
arrays = [np.full((256, 256), i, dtype=np.float32) for i in range(4)]
names = [f"tensor_{i}" for i in range(4)]
ptrs = [a.ctypes.data for a in arrays]
sizes = [a.nbytes for a in arrays]
for ptr, size in zip(ptrs, sizes):
    store.register_buffer(ptr, size)
print("put_from:", store.batch_put_from(names, ptrs, sizes))

targets = [np.empty((256, 256), dtype=np.float32) for _ in range(4)]
target_ptrs = [t.ctypes.data for t in targets]
for ptr, size in zip(target_ptrs, sizes):
    store.register_buffer(ptr, size)
print("get_into:", store.batch_get_into(names, target_ptrs, sizes))
print("match:", all(np.array_equal(a, b) for a, b in zip(arrays, targets)))

for ptr in ptrs + target_ptrs:
    store.unregister_buffer(ptr)
store.close()
