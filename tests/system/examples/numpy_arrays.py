import numpy as np
import json
from mooncake.store import MooncakeDistributedStore

store = MooncakeDistributedStore()
store.setup("localhost", "http://localhost:8080/metadata", 512*1024*1024, 128*1024*1024, "tcp", "", "localhost:50051")

# Store NumPy array
original_array = np.random.rand(100, 200)
metadata = {"shape": original_array.shape, "dtype": str(original_array.dtype)}
store.put("numpy_array", original_array.tobytes())
store.put("numpy_array_meta", json.dumps(metadata).encode())

# Retrieve and reconstruct
raw = store.get("numpy_array")
meta = json.loads(store.get("numpy_array_meta").decode())
restored = np.frombuffer(raw, dtype=meta["dtype"]).reshape(meta["shape"])
print("equal:", np.array_equal(original_array, restored))

store.close()
