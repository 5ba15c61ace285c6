# Types of the extension module mooncake.store. Its docstrings say more: shapes, units, codes.
from typing import Any, Dict, List, Optional, Sequence, SupportsIndex, Union, final, overload

from typing_extensions import Buffer

from mooncake.buffer_pool import (
    BufferLeaseView as BufferLeaseView,
    BufferPool as BufferPool,
    RegisteredBufferLease as RegisteredBufferLease,
    RegisteredBufferLeaseView as RegisteredBufferLeaseView,
    RegisteredBufferPool as RegisteredBufferPool,
)

_Key = Union[str, bytes, bytearray]
_Text = Union[str, bytes]
_Pointers = Sequence[SupportsIndex]

__version__: str

class _Enum:
    __members__: Dict[str, Any]
    def __init__(self, value: SupportsIndex) -> None: ...
    @property
    def name(self) -> str: ...
    @property
    def value(self) -> int: ...
    def __int__(self) -> int: ...
    def __index__(self) -> int: ...
    def __hash__(self) -> int: ...
    def __eq__(self, value: object, /) -> bool: ...
    def __ne__(self, value: object, /) -> bool: ...
    def __lt__(self, value: Any, /) -> bool: ...
    def __le__(self, value: Any, /) -> bool: ...
    def __gt__(self, value: Any, /) -> bool: ...
    def __ge__(self, value: Any, /) -> bool: ...

@final
class ObjectDataType(_Enum):
    UNKNOWN: ObjectDataType
    KVCACHE: ObjectDataType
    TENSOR: ObjectDataType
    WEIGHT: ObjectDataType
    SAMPLE: ObjectDataType
    ACTIVATION: ObjectDataType
    GRADIENT: ObjectDataType
    OPTIMIZER_STATE: ObjectDataType
    METADATA: ObjectDataType
    GENERAL: ObjectDataType

@final
class SoftPinAction(_Enum):
    PRESERVE: SoftPinAction
    ENABLE: SoftPinAction
    DISABLE: SoftPinAction

@final
class ReplicaStatus(_Enum):
    UNDEFINED: ReplicaStatus
    INITIALIZED: ReplicaStatus
    PROCESSING: ReplicaStatus
    COMPLETE: ReplicaStatus
    REMOVED: ReplicaStatus
    FAILED: ReplicaStatus

@final
class TaskType(_Enum):
    REPLICA_COPY: TaskType
    REPLICA_MOVE: TaskType

@final
class TaskStatus(_Enum):
    PENDING: TaskStatus
    PROCESSING: TaskStatus
    SUCCESS: TaskStatus
    FAILED: TaskStatus

UNKNOWN: ObjectDataType
KVCACHE: ObjectDataType
TENSOR: ObjectDataType
WEIGHT: ObjectDataType
SAMPLE: ObjectDataType
ACTIVATION: ObjectDataType
GRADIENT: ObjectDataType
OPTIMIZER_STATE: ObjectDataType
METADATA: ObjectDataType
GENERAL: ObjectDataType
UNDEFINED: ReplicaStatus
INITIALIZED: ReplicaStatus
COMPLETE: ReplicaStatus
REMOVED: ReplicaStatus
REPLICA_COPY: TaskType
REPLICA_MOVE: TaskType
PENDING: TaskStatus
PROCESSING: TaskStatus
SUCCESS: TaskStatus
FAILED: TaskStatus

class ReplicateConfig:
    replica_num: int
    nof_replica_num: int
    dfs_replica_num: int
    with_soft_pin: bool
    soft_pin_action: SoftPinAction
    soft_pin_ttl_ms: Optional[int]
    with_hard_pin: bool
    preferred_segment: str
    preferred_segments: List[str]
    preferred_nof_segments: List[str]
    prefer_alloc_in_same_node: bool
    data_type: ObjectDataType
    group_ids: Optional[List[str]]
    def __init__(self, **attributes: Any) -> None: ...

@final
class BufferHandle:
    """Bytes of one object: a buffer of signed chars; read-only where it shows the stored object itself."""

    def ptr(self) -> int: ...
    def size(self) -> int: ...
    def __len__(self) -> int: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...

@final
class BufferLease:
    @property
    def ptr(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def buffer(self) -> memoryview: ...
    def release(self) -> None: ...
    def __enter__(self) -> BufferLease: ...
    def __exit__(self, *exc_info: object) -> None: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...

@final
class Descriptor:
    size: int
    buffer_address: int
    transport_endpoint: str

@final
class DiskDescriptor:
    file_path: str
    object_size: int

@final
class MemoryDescriptor:
    buffer_descriptor: Descriptor

@final
class ReplicaDescriptor:
    @property
    def status(self) -> ReplicaStatus: ...
    @property
    def segment_name(self) -> str: ...
    def is_memory_replica(self) -> bool: ...
    def is_disk_replica(self) -> bool: ...
    def is_local_disk_replica(self) -> bool: ...
    def get_memory_descriptor(self) -> MemoryDescriptor: ...
    def get_disk_descriptor(self) -> DiskDescriptor: ...

class MooncakeDistributedStore:
    def __init__(self) -> None: ...
    # life cycle
    @overload
    def setup(
        self,
        local_hostname: _Text,
        metadata_server: _Text,
        global_segment_size: SupportsIndex,
        local_buffer_size: SupportsIndex,
        protocol: _Text,
        rdma_devices: _Text,
        master_server_addr: _Text,
        engine: Any = None,
        enable_ssd_offload: bool = False,
        ssd_offload_path: _Text = "",
        tenant_id: _Text = "default",
        enable_client_http_server: bool = False,
        client_http_port: SupportsIndex = 9300,
    ) -> int: ...
    @overload
    def setup(
        self,
        *,
        local_hostname: _Text,
        metadata_server: _Text,
        global_segment_size: SupportsIndex,
        local_buffer_size: SupportsIndex,
        protocol: _Text,
        device_name: _Text,
        master_server_address: _Text,
        engine: Any = None,
        enable_ssd_offload: bool = False,
        ssd_offload_path: _Text = "",
        tenant_id: _Text = "default",
        enable_client_http_server: bool = False,
        client_http_port: SupportsIndex = 9300,
    ) -> int: ...
    @overload
    def setup(self, config: Dict[str, Any]) -> int: ...
    def init_all(self, protocol: _Text, device_name: _Text, mount_segment_size: SupportsIndex) -> int: ...
    def close(self) -> int: ...
    def health_check(self) -> int: ...
    def get_hostname(self) -> str: ...
    def get_offload_rpc_read_count(self) -> int: ...
    def counters(self) -> Dict[str, int]: ...
    def _local_buffer_size(self) -> int: ...
    # values that are Python objects
    def put(self, key: _Key, value: Buffer, config: ReplicateConfig = ...) -> int: ...
    def upsert(self, key: _Key, value: Buffer, config: ReplicateConfig = ...) -> int: ...
    def put_batch(self, keys: Sequence[_Key], values: Sequence[Buffer], config: ReplicateConfig = ...) -> int: ...
    def upsert_batch(self, keys: Sequence[_Key], values: Sequence[Buffer], config: ReplicateConfig = ...) -> int: ...
    def put_parts(self, key: _Key, /, *parts: Buffer, config: ReplicateConfig = ...) -> int: ...
    def upsert_parts(self, key: _Key, /, *parts: Buffer, config: ReplicateConfig = ...) -> int: ...
    def get(self, key: _Key) -> bytes: ...
    def get_batch(self, keys: Sequence[_Key]) -> List[bytes]: ...
    def get_buffer(self, key: _Key) -> Optional[BufferHandle]: ...
    def batch_get_buffer(self, keys: Sequence[_Key]) -> List[Optional[BufferHandle]]: ...
    # values at addresses
    def register_buffer(self, buffer_ptr: SupportsIndex, size: SupportsIndex) -> int: ...
    def unregister_buffer(self, buffer_ptr: SupportsIndex, size: SupportsIndex = ...) -> int: ...
    def put_from(self, key: _Key, buffer_ptr: SupportsIndex, size: SupportsIndex, config: ReplicateConfig = ...) -> int: ...
    def upsert_from(
        self, key: _Key, buffer_ptr: SupportsIndex, size: SupportsIndex, config: ReplicateConfig = ...
    ) -> int: ...
    def put_from_with_metadata(
        self,
        key: _Key,
        buffer_ptr: SupportsIndex,
        metadata_buffer_ptr: SupportsIndex,
        size: SupportsIndex,
        metadata_size: SupportsIndex,
        config: ReplicateConfig = ...,
    ) -> int: ...
    def batch_put_from(
        self, keys: Sequence[_Key], buffer_ptrs: _Pointers, sizes: _Pointers, config: ReplicateConfig = ...
    ) -> List[int]: ...
    def batch_upsert_from(
        self, keys: Sequence[_Key], buffer_ptrs: _Pointers, sizes: _Pointers, config: ReplicateConfig = ...
    ) -> List[int]: ...
    def batch_put_from_multi_buffers(
        self,
        keys: Sequence[_Key],
        all_buffer_ptrs: Sequence[_Pointers],
        all_sizes: Sequence[_Pointers],
        config: ReplicateConfig = ...,
    ) -> List[int]: ...
    def get_into(self, key: _Key, buffer_ptr: SupportsIndex, size: SupportsIndex) -> int: ...
    def batch_get_into(self, keys: Sequence[_Key], buffer_ptrs: _Pointers, sizes: _Pointers) -> List[int]: ...
    def batch_get_into_multi_buffers(
        self,
        keys: Sequence[_Key],
        all_buffer_ptrs: Sequence[_Pointers],
        all_sizes: Sequence[_Pointers],
        prefer_alloc_in_same_node: bool = False,
    ) -> List[int]: ...
    def get_into_ranges(
        self,
        buffer_ptrs: _Pointers,
        all_keys: Sequence[Sequence[_Key]],
        all_dst_offsets: Sequence[Sequence[_Pointers]],
        all_src_offsets: Sequence[Sequence[_Pointers]],
        all_sizes: Sequence[Sequence[_Pointers]],
    ) -> List[List[List[int]]]: ...
    # pieces of values, over several calls
    def batch_get_session_start(self, keys: Sequence[_Key]) -> List[int]: ...
    def batch_get_into_multi_buffer_ranges(
        self,
        keys: Sequence[_Key],
        all_buffer_ptrs: Sequence[_Pointers],
        all_sizes: Sequence[_Pointers],
        all_src_offsets: Sequence[_Pointers],
    ) -> List[int]: ...
    def batch_get_session_end(self, keys: Sequence[_Key]) -> int: ...
    def batch_put_session_start(
        self, keys: Sequence[_Key], sizes: _Pointers, config: ReplicateConfig = ...
    ) -> List[int]: ...
    def batch_put_from_multi_buffer_ranges(
        self,
        keys: Sequence[_Key],
        all_buffer_ptrs: Sequence[_Pointers],
        all_sizes: Sequence[_Pointers],
        all_dst_offsets: Sequence[_Pointers],
    ) -> List[int]: ...
    def batch_put_session_end(self, keys: Sequence[_Key]) -> List[int]: ...
    def batch_put_session_revoke(self, keys: Sequence[_Key]) -> List[int]: ...
    # keys
    def is_exist(self, key: _Key) -> int: ...
    def batch_is_exist(self, keys: Sequence[_Key]) -> List[int]: ...
    def get_size(self, key: _Key) -> int: ...
    def remove(self, key: _Key, force: bool = False) -> int: ...
    def batch_remove(self, keys: Sequence[_Key], force: bool = False) -> List[int]: ...
    def remove_by_regex(self, regex_pattern: _Key, force: bool = False) -> int: ...
    def remove_all(self, force: bool = False) -> int: ...
    def get_replica_desc(self, key: _Key) -> List[ReplicaDescriptor]: ...
    def batch_get_replica_desc(self, keys: Sequence[_Key]) -> Dict[_Key, List[ReplicaDescriptor]]: ...
