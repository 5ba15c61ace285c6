from mooncake.store import MooncakeDistributedStore

store = MooncakeDistributedStore()
store.setup(
    "localhost",
    "P2PHANDSHAKE",
    512*1024*1024,
    128*1024*1024,
    "tcp",
    "",
    "localhost:50051"
)
store.put("hello_key", b"Hello, Mooncake Store!")
print(store.get("hello_key").decode())
store.close()
