"""Contract: copies and moves of replicas (create_copy_task, create_move_task, query_task)."""

import ctypes

import pytest
from contract_support import MIB, Memory, fresh, new_store, pattern
from python_support import wait_until


@pytest.fixture
def trio(real, master):
    """Three stores with segments of their own."""
    stores = [new_store(real, master) for _ in range(3)]
    yield stores
    for store in stores:
        store.close()


def names(stores):
    return [store.get_hostname() for store in stores]


def segments_of(store, key):
    return sorted(replica.segment_name for replica in store.get_replica_desc(key))


def put_on(real, store, key, value):
    config = real.ReplicateConfig()
    config.preferred_segment = store.get_hostname()
    assert store.put(key, value, config) == 0


def end_of(real, store, task):
    def ended():
        response, code = store.query_task(task)
        assert code == 0
        return response.status in (real.TaskStatus.SUCCESS, real.TaskStatus.FAILED)

    wait_until(ended, "the task has ended")
    return store.query_task(task)[0]


def test_a_copy_task_adds_replicas(real, trio):
    key, value = fresh(), pattern(3 * MIB + 7)
    put_on(real, trio[0], key, value)
    task, code = trio[1].create_copy_task(key, names(trio)[1:])
    assert code == 0 and isinstance(task, tuple) and len(task) == 2 and task != (0, 0)
    response = end_of(real, trio[2], task)
    assert response.status == real.TaskStatus.SUCCESS and response.type == real.TaskType.REPLICA_COPY
    assert response.id == task and response.message == ""
    assert response.last_updated_at_ms_epoch >= response.created_at_ms_epoch > 1_600_000_000_000
    assert response.assigned_client != (0, 0)
    assert segments_of(trio[0], key) == sorted(names(trio))
    assert [store.get(key) for store in trio] == [value] * 3


def test_a_move_task_takes_the_replica_along(real, trio):
    key, value = fresh(), pattern(MIB)
    put_on(real, trio[0], key, value)
    view = trio[1].get_buffer(key)
    task, code = trio[1].create_move_task(key, names(trio)[0], names(trio)[2])
    assert code == 0
    response = end_of(real, trio[1], task)
    assert response.status == real.TaskStatus.SUCCESS and response.type == real.TaskType.REPLICA_MOVE
    assert segments_of(trio[1], key) == [names(trio)[2]]
    assert bytes(view) == value, "what a reader held before stays as it was"
    assert trio[1].get(key) == value


def test_a_get_session_goes_on_over_a_move(real, trio):
    key, value = fresh(), pattern(100_000)
    put_on(real, trio[0], key, value)
    reader = trio[1]
    memory = Memory(len(value))
    assert reader.register_buffer(memory.ptr, memory.size) == 0
    assert reader.batch_get_session_start([key]) == [0]
    for source, target in ((0, 2), (2, 0), (0, 2)):
        task, code = reader.create_move_task(key, names(trio)[source], names(trio)[target])
        assert code == 0
        assert end_of(real, reader, task).status == real.TaskStatus.SUCCESS
        ctypes.memset(memory.ptr, 0, memory.size)
        assert reader.batch_get_into_multi_buffer_ranges([key], [[memory.ptr]], [[memory.size]], [[0]]) == [memory.size]
        assert bytes(memory) == value
    assert reader.batch_get_session_end([key]) == 0
    assert reader.unregister_buffer(memory.ptr) == 0


def test_failed_creations_give_zeros_and_a_code(real, trio):
    key = fresh()
    store, (here, there, other) = trio[0], names(trio)
    put_on(real, store, key, b"value")
    zeros = (0, 0)
    assert store.create_copy_task(fresh(), [there]) == (zeros, -704)
    assert store.create_copy_task(key, []) == (zeros, -600)
    assert store.create_copy_task(key, ["nobody:1"]) == (zeros, -600)
    assert store.create_copy_task(key, [there, there]) == (zeros, -600)
    assert store.create_copy_task(key, [""]) == (zeros, -600)
    assert store.create_copy_task(key, [there] * 5000) == (zeros, -600)
    assert store.create_copy_task("", [there]) == (zeros, -600)
    assert store.create_move_task(key, here, here) == (zeros, -600)
    assert store.create_move_task(key, "nobody:1", there) == (zeros, -600)
    assert store.create_move_task(key, here, "nobody:1") == (zeros, -600)
    assert store.create_move_task(key, there, other) == (zeros, -710)
    assert store.create_move_task(key, there, here) == (zeros, -710)
    assert store.query_task((1, 2)) == (None, -1400)
    assert store.query_task((0, 0)) == (None, -1400)
    assert store.query_task((2**64 - 1, 2**64 - 1)) == (None, -1400)
    with pytest.raises(TypeError):
        store.query_task((1, 2, 3))
    with pytest.raises(TypeError):
        store.create_copy_task(key, there)
    with pytest.raises(TypeError):
        store.query_task(7)


def test_targets_that_have_a_replica_already(real, trio):
    """A copy has nothing to do there; a move gives up the replica in its source."""
    key, value = fresh(), pattern(MIB)
    here, there, other = names(trio)
    put_on(real, trio[0], key, value)
    for targets in ([here], [there, here], [there], [here, there]):
        task, code = trio[2].create_copy_task(key, targets)
        assert code == 0 and end_of(real, trio[2], task).status == real.TaskStatus.SUCCESS
    assert segments_of(trio[2], key) == sorted([here, there])
    view = trio[1].get_buffer(key)
    task, code = trio[2].create_move_task(key, here, there)
    assert code == 0 and end_of(real, trio[2], task).status == real.TaskStatus.SUCCESS
    assert segments_of(trio[2], key) == [there]
    assert [store.get(key) for store in trio] == [value] * 3 and bytes(view) == value
    assert trio[2].create_move_task(key, here, other) == ((0, 0), -710)


def test_a_response_is_a_plain_object(real):
    response = real.QueryTaskResponse()
    assert response.id == (0, 0) and response.assigned_client == (0, 0)
    assert response.status == real.TaskStatus.PENDING and response.type == real.TaskType.REPLICA_COPY
    assert response.message == "" and response.created_at_ms_epoch == response.last_updated_at_ms_epoch == 0
    assert str(response) == 'QueryTaskResponse(id=0-0, type=0, status=0, created_at=0, last_updated_at=0, assigned_client=0-0, message="")'
    with pytest.raises(AttributeError):
        response.status = real.TaskStatus.FAILED


def test_an_object_can_be_removed_when_its_task_is_over(real, trio):
    key = fresh()
    put_on(real, trio[0], key, b"value")
    task, code = trio[0].create_copy_task(key, names(trio)[1:2])
    assert code == 0
    response = end_of(real, trio[0], task)
    assert (response.status, response.status.value) == (real.TaskStatus.SUCCESS, 3) and real.TaskStatus.FAILED.value == 2
    assert trio[0].remove(key) == 0
    assert trio[1].get(key) == b""
