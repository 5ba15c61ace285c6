# Types of the extension module mooncake.store. Its docstrings say more: shapes, units, codes.
from typing import Any, ClassVar, Dict, List, Optional, Sequence, SupportsIndex, Tuple, Union, final, overload

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
    FAILED: TaskStatus
    SUCCESS: TaskStatus

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
FAILED: TaskStatus
SUCCESS: TaskStatus

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

class QueryTaskResponse:
    @property
    def id(self) -> Tuple[int, int]: ...
    @property
    def type(self) -> TaskType: ...
    @property
    def status(self) -> TaskStatus: ...
    @property
    def created_at_ms_epoch(self) -> int: ...
    @property
    def last_updated_at_ms_epoch(self) -> int: ...
    @property
    def assigned_client(self) -> Tuple[int, int]: ...
    @property
    def message(self) -> str: ...

class MooncakeHostMemAllocator:
    def __init__(self) -> None: ...
    def alloc(self, size: SupportsIndex) -> int: ...
    def free(self, ptr: SupportsIndex) -> int: ...

@final
class StoredTensor:
    """A tensor in host or GPU memory, in C order; read-only where it shows the stored elements themselves."""

    __dlpack_c_exchange_api__: ClassVar[Any]
    @property
    def shape(self) -> Tuple[int, ...]: ...
    @property
    def dtype(self) -> str: ...
    @property
    def ndim(self) -> int: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def device(self) -> str: ...
    @property
    def readonly(self) -> bool: ...
    @property
    def data(self) -> memoryview: ...
    def __dlpack__(
        self,
        *,
        stream: Optional[SupportsIndex] = None,
        max_version: Optional[Tuple[int, int]] = None,
        dl_device: Optional[Tuple[int, int]] = None,
        copy: Optional[bool] = None,
    ) -> Any: ...
    def __dlpack_device__(self) -> Tuple[int, int]: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...

class ParallelAxis:
    kind: str
    rank: int
    size: int
    split_dim: Optional[int]
    expert_id: Optional[int]
    stage_id: Optional[int]
    def __init__(self, **attributes: Any) -> None: ...

class TensorParallelism:
    axes: List[ParallelAxis]
    def __init__(self, **attributes: Any) -> None: ...

class ReadTarget:
    mode: str
    parallelism: Optional[TensorParallelism]
    def __init__(self, **attributes: Any) -> None: ...

# torch.Tensor, or StoredTensor where torch is not installed
_Tensor = Any

def _serialize_tensor(tensor: Any) -> Tuple[bytes, int, int, Any]: ...
def _deserialize_tensor(bytes: Buffer) -> _Tensor: ...
def _tensor_metadata_size() -> int: ...
def bind_to_numa_node(node: SupportsIndex) -> None: ...
def get_alloc_func_addr() -> int: ...
def get_free_func_addr() -> int: ...

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
        *,
        device_segment: _Text = "",
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
        device_segment: _Text = "",
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
    # tensors
    def put_tensor(self, key: _Key, tensor: Any) -> int: ...
    def upsert_tensor(self, key: _Key, tensor: Any) -> int: ...
    def pub_tensor(self, key: _Key, tensor: Any, config: ReplicateConfig = ...) -> int: ...
    def upsert_pub_tensor(self, key: _Key, tensor: Any, config: ReplicateConfig = ...) -> int: ...
    def batch_put_tensor(self, keys: Sequence[_Key], tensors_list: Sequence[Any]) -> List[int]: ...
    def batch_upsert_tensor(self, keys: Sequence[_Key], tensors_list: Sequence[Any]) -> List[int]: ...
    def batch_pub_tensor(
        self, keys: Sequence[_Key], tensors_list: Sequence[Any], config: ReplicateConfig = ...
    ) -> List[int]: ...
    def batch_upsert_pub_tensor(
        self, keys: Sequence[_Key], tensors_list: Sequence[Any], config: ReplicateConfig = ...
    ) -> List[int]: ...
    def put_tensor_from(self, key: _Key, buffer_ptr: SupportsIndex, size: SupportsIndex) -> int: ...
    def upsert_tensor_from(self, key: _Key, buffer_ptr: SupportsIndex, size: SupportsIndex) -> int: ...
    def batch_put_tensor_from(self, keys: Sequence[_Key], buffer_ptrs: _Pointers, sizes: _Pointers) -> List[int]: ...
    def batch_upsert_tensor_from(self, keys: Sequence[_Key], buffer_ptrs: _Pointers, sizes: _Pointers) -> List[int]: ...
    def get_tensor(self, key: _Key, device: Any = None) -> _Tensor: ...
    def batch_get_tensor(self, keys: Sequence[_Key]) -> List[_Tensor]: ...
    def get_dlpack(self, key: _Key, device: Any = None) -> Any: ...
    def get_tensor_into(self, key: _Key, buffer_ptr: SupportsIndex, size: SupportsIndex) -> _Tensor: ...
    def batch_get_tensor_into(
        self, keys: Sequence[_Key], buffer_ptrs: _Pointers, sizes: _Pointers
    ) -> List[_Tensor]: ...
    def get_tensor_into_cuda(self, key: _Key, tensor: Any) -> int: ...
    def batch_get_tensor_into_cuda(self, keys: Sequence[_Key], tensors_list: Sequence[Any]) -> List[int]: ...
    def put_tensor_with_tp(
        self,
        key: _Key,
        tensor: Any,
        tp_rank: SupportsIndex = 0,
        tp_size: SupportsIndex = 1,
        split_dim: SupportsIndex = 0,
    ) -> int: ...
    def batch_put_tensor_with_tp(
        self,
        base_keys: Sequence[_Key],
        tensors_list: Sequence[Any],
        tp_rank: SupportsIndex = 0,
        tp_size: SupportsIndex = 1,
        split_dim: SupportsIndex = 0,
    ) -> List[int]: ...
    def pub_tensor_with_tp(
        self,
        key: _Key,
        tensor: Any,
        config: ReplicateConfig = ...,
        tp_rank: SupportsIndex = 0,
        tp_size: SupportsIndex = 1,
        split_dim: SupportsIndex = 0,
    ) -> int: ...
    def batch_pub_tensor_with_tp(
        self,
        base_keys: Sequence[_Key],
        tensors_list: Sequence[Any],
        config: ReplicateConfig = ...,
        tp_rank: SupportsIndex = 0,
        tp_size: SupportsIndex = 1,
        split_dim: SupportsIndex = 0,
    ) -> List[int]: ...
    def put_tensor_with_tp_from(
        self,
        key: _Key,
        buffer_ptr: SupportsIndex,
        size: SupportsIndex,
        tp_rank: SupportsIndex = 0,
        tp_size: SupportsIndex = 1,
        split_dim: SupportsIndex = 0,
    ) -> int: ...
    def batch_put_tensor_with_tp_from(
        self,
        base_keys: Sequence[_Key],
        buffer_ptrs: _Pointers,
        sizes: _Pointers,
        tp_rank: SupportsIndex = 0,
        tp_size: SupportsIndex = 1,
        split_dim: SupportsIndex = 0,
    ) -> List[int]: ...
    def get_tensor_with_tp(
        self, key: _Key, tp_rank: SupportsIndex = 0, tp_size: SupportsIndex = 1, split_dim: SupportsIndex = 0
    ) -> _Tensor: ...
    def batch_get_tensor_with_tp(
        self, base_keys: Sequence[_Key], tp_rank: SupportsIndex = 0, tp_size: SupportsIndex = 1
    ) -> List[_Tensor]: ...
    def get_tensor_with_tp_into(
        self,
        key: _Key,
        buffer_ptr: SupportsIndex,
        size: SupportsIndex,
        tp_rank: SupportsIndex = 0,
        tp_size: SupportsIndex = 1,
        split_dim: SupportsIndex = 0,
    ) -> _Tensor: ...
    def batch_get_tensor_with_tp_into(
        self,
        base_keys: Sequence[_Key],
        buffer_ptrs: _Pointers,
        sizes: _Pointers,
        tp_rank: SupportsIndex = 0,
        tp_size: SupportsIndex = 1,
    ) -> List[_Tensor]: ...
    def put_tensor_with_parallelism(
        self,
        key: _Key,
        tensor: Any,
        parallelism: Any = None,
        config: ReplicateConfig = ...,
        writer_partition: Any = None,
    ) -> int: ...
    def upsert_tensor_with_parallelism(
        self,
        key: _Key,
        tensor: Any,
        parallelism: Any = None,
        config: ReplicateConfig = ...,
        writer_partition: Any = None,
    ) -> int: ...
    def batch_put_tensor_with_parallelism(
        self,
        keys: Sequence[_Key],
        tensors_list: Sequence[Any],
        parallelisms: Optional[Sequence[Any]] = None,
        config: ReplicateConfig = ...,
        writer_partitions: Optional[Sequence[Any]] = None,
    ) -> List[int]: ...
    def batch_upsert_tensor_with_parallelism(
        self,
        keys: Sequence[_Key],
        tensors_list: Sequence[Any],
        parallelisms: Optional[Sequence[Any]] = None,
        config: ReplicateConfig = ...,
        writer_partitions: Optional[Sequence[Any]] = None,
    ) -> List[int]: ...
    def put_tensor_with_parallelism_from(
        self,
        key: _Key,
        buffer_ptr: SupportsIndex,
        size: SupportsIndex,
        parallelism: Any = None,
        config: ReplicateConfig = ...,
        writer_partition: Any = None,
    ) -> int: ...
    def upsert_tensor_with_parallelism_from(
        self,
        key: _Key,
        buffer_ptr: SupportsIndex,
        size: SupportsIndex,
        parallelism: Any = None,
        config: ReplicateConfig = ...,
        writer_partition: Any = None,
    ) -> int: ...
    def batch_put_tensor_with_parallelism_from(
        self,
        keys: Sequence[_Key],
        buffer_ptrs: _Pointers,
        sizes: _Pointers,
        parallelisms: Optional[Sequence[Any]] = None,
        config: ReplicateConfig = ...,
        writer_partitions: Optional[Sequence[Any]] = None,
    ) -> List[int]: ...
    def batch_upsert_tensor_with_parallelism_from(
        self,
        keys: Sequence[_Key],
        buffer_ptrs: _Pointers,
        sizes: _Pointers,
        parallelisms: Optional[Sequence[Any]] = None,
        config: ReplicateConfig = ...,
        writer_partitions: Optional[Sequence[Any]] = None,
    ) -> List[int]: ...
    def get_tensor_with_parallelism(self, key: _Key, target: Any = None) -> _Tensor: ...
    def batch_get_tensor_with_parallelism(
        self, keys: Sequence[_Key], targets: Optional[Sequence[Any]] = None
    ) -> List[_Tensor]: ...
    def get_tensor_with_parallelism_into(
        self, key: _Key, buffer_ptr: SupportsIndex, size: SupportsIndex, target: Any = None
    ) -> _Tensor: ...
    def batch_get_tensor_with_parallelism_into(
        self, keys: Sequence[_Key], buffer_ptrs: _Pointers, sizes: _Pointers, targets: Optional[Sequence[Any]] = None
    ) -> List[_Tensor]: ...
    def save_tensor_to_safetensor(self, key: _Key, file_name: Any = None) -> int: ...
    def load_tensor_from_safetensor(self, key: Optional[_Key] = None, file_name: Any = ...) -> _Tensor: ...
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
    def batch_replica_clear(self, keys: Sequence[_Key], segment_name: str = "") -> List[_Key]: ...
    # segments of run time
    def allocate_and_mount_segment(
        self, size: SupportsIndex, protocol: str = "tcp", location: str = ""
    ) -> Dict[str, Any]: ...
    def unmount_and_free_segment(self, segment_ids: Sequence[str], grace_period_seconds: SupportsIndex = 0) -> int: ...
    def mount_segment(
        self, path: str, size: SupportsIndex, offset: SupportsIndex = 0, protocol: str = "tcp", location: str = ""
    ) -> Dict[str, Any]: ...
    def unmount_segment(self, segment_ids: Sequence[str], grace_period_seconds: SupportsIndex = 0) -> int: ...
    def unmount_local_disk_segment(self, grace_period_seconds: SupportsIndex = 0) -> int: ...
    def setup_dummy(
        self, mem_pool_size: SupportsIndex, local_buffer_size: SupportsIndex, server_address: str
    ) -> int: ...
    def alloc_from_mem_pool(self, size: SupportsIndex) -> int: ...
    # tasks
    def create_copy_task(self, key: _Key, targets: Sequence[str]) -> Tuple[Tuple[int, int], int]: ...
    def create_move_task(self, key: _Key, source: str, target: str) -> Tuple[Tuple[int, int], int]: ...
    def query_task(self, task_id: Tuple[int, int]) -> Tuple[Optional[QueryTaskResponse], int]: ...
