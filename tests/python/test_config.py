"""ReplicateConfig and the enumerations."""

import copy
import pickle

import pytest

DEFAULT_TEXT = (
    "ReplicateConfig: { replica_num: 1, nof_replica_num: 0, dfs_replica_num: 0, soft_pin_action: PRESERVE, "
    "soft_pin_ttl_ms: default, with_hard_pin: 0, preferred_segments: [], preferred_nof_segments: [], "
    "prefer_alloc_in_same_node: 0, data_type: UNKNOWN }"
)


@pytest.fixture
def config(fake):
    return fake.ReplicateConfig()


def test_defaults(fake, config):
    assert config.replica_num == 1
    assert config.nof_replica_num == 0 and config.dfs_replica_num == 0
    assert config.with_soft_pin is False and config.with_hard_pin is False and config.prefer_alloc_in_same_node is False
    assert config.soft_pin_action is fake.SoftPinAction.PRESERVE
    assert config.soft_pin_ttl_ms is None and config.group_ids is None
    assert config.preferred_segment == "" and config.preferred_segments == [] and config.preferred_nof_segments == []
    assert config.data_type is fake.ObjectDataType.UNKNOWN


@pytest.mark.parametrize("name", ["replica_num", "nof_replica_num", "dfs_replica_num", "soft_pin_ttl_ms"])
@pytest.mark.parametrize("wrong", [-1, 1 << 64, 1.0, "1", [], object()], ids=lambda w: type(w).__name__ + str(w)[:5])
def test_numbers_are_64_bits_without_a_sign(config, name, wrong):
    before = getattr(config, name)
    with pytest.raises(TypeError, match=name):
        setattr(config, name, wrong)
    assert getattr(config, name) == before
    setattr(config, name, (1 << 64) - 1)
    assert getattr(config, name) == (1 << 64) - 1


@pytest.mark.parametrize("name", ["with_soft_pin", "with_hard_pin", "prefer_alloc_in_same_node"])
def test_flags(config, name):
    for truth in (True, False, 1, 0):
        setattr(config, name, truth)
        assert getattr(config, name) is bool(truth)
    setattr(config, name, "True")
    assert getattr(config, name) is True
    setattr(config, name, "False")
    assert getattr(config, name) is False
    for wrong in ("yes", "true", "", [], object()):
        with pytest.raises(TypeError, match=name):
            setattr(config, name, wrong)


@pytest.mark.parametrize("name", ["preferred_segments", "preferred_nof_segments", "group_ids"])
def test_lists_of_texts(config, name):
    setattr(config, name, ("a", b"b", "ü"))
    assert getattr(config, name) == ["a", "b", "ü"]
    getattr(config, name).append("x")
    assert getattr(config, name) == ["a", "b", "ü"]
    for wrong in ("text", b"text", 1, [1], [None], {"a"}, object()):
        with pytest.raises(TypeError, match=name):
            setattr(config, name, wrong)
    for wrong in (["a\0b"], ["\ud800"]):
        with pytest.raises(ValueError):
            setattr(config, name, wrong)
    assert getattr(config, name) == ["a", "b", "ü"]


def test_optional_attributes_can_be_taken_back(config):
    config.group_ids, config.soft_pin_ttl_ms = ["g"], 5
    config.group_ids, config.soft_pin_ttl_ms = None, None
    assert config.group_ids is None and config.soft_pin_ttl_ms is None
    for name in ("preferred_segments", "preferred_segment", "replica_num", "data_type", "soft_pin_action"):
        with pytest.raises(TypeError):
            setattr(config, name, None)


def test_soft_pin_in_both_spellings(fake, config):
    config.with_soft_pin = True
    assert config.soft_pin_action is fake.SoftPinAction.ENABLE
    config.with_soft_pin = False
    assert config.soft_pin_action is fake.SoftPinAction.PRESERVE
    config.soft_pin_action = fake.SoftPinAction.DISABLE
    assert config.with_soft_pin is False
    for wrong in (1, "ENABLE", fake.ObjectDataType.KVCACHE, None):
        with pytest.raises(TypeError):
            config.soft_pin_action = wrong
    with pytest.raises(TypeError):
        config.data_type = fake.SoftPinAction.ENABLE


def test_text(fake, config):
    assert str(config) == repr(config) == DEFAULT_TEXT
    config.replica_num = 3
    config.soft_pin_action, config.soft_pin_ttl_ms = fake.SoftPinAction.ENABLE, 17
    config.preferred_segments, config.preferred_segment = ["a:1", "b:2"], "c:3"
    config.with_hard_pin, config.data_type, config.group_ids = True, fake.KVCACHE, ["g", ""]
    assert str(config) == (
        "ReplicateConfig: { replica_num: 3, nof_replica_num: 0, dfs_replica_num: 0, soft_pin_action: ENABLE, "
        "soft_pin_ttl_ms: 17, with_hard_pin: 1, preferred_segments: [a:1, b:2], preferred_segment (deprecated): c:3, "
        "preferred_nof_segments: [], prefer_alloc_in_same_node: 0, data_type: KVCACHE, group_ids: [g, ] }"
    )


def test_attributes_as_keywords(fake):
    config = fake.ReplicateConfig(replica_num=2, with_hard_pin=True, group_ids=["g"])
    assert (config.replica_num, config.with_hard_pin, config.group_ids) == (2, True, ["g"])
    with pytest.raises(TypeError, match="no_such"):
        fake.ReplicateConfig(no_such=1)
    with pytest.raises(TypeError):
        fake.ReplicateConfig(2)
    with pytest.raises(TypeError):
        fake.ReplicateConfig(replica_num=-1)


def test_engines_find_the_attributes_on_the_class_and_cannot_invent_others(fake, config):
    for name in ("group_ids", "preferred_segment", "preferred_segments", "with_soft_pin", "soft_pin_ttl_ms", "data_type"):
        assert hasattr(fake.ReplicateConfig, name)
    with pytest.raises(AttributeError):
        config.no_such = 1
    with pytest.raises(AttributeError):
        del config.replica_num
    with pytest.raises(TypeError):
        copy.copy(config)

    class Mine(fake.ReplicateConfig):
        pass

    mine = Mine(replica_num=4)
    mine.note = "free"
    assert mine.replica_num == 4


def last_put(store):
    return {name[5:]: value for name, value in store.counters().items() if name.startswith("last_")}


def test_everything_reaches_the_library(fake, store):
    assert store.put("k", b"v") == 0
    assert last_put(store) == {
        "flags": 1,
        "replica_num": 1,
        "soft_pin": 0,
        "soft_pin_ttl": (1 << 64) - 1,
        "hard_pin": 0,
        "data_type": 0,
        "segments": 0,
        "groups": 0,
        "same_node": 0,
    }
    config = fake.ReplicateConfig(
        replica_num=2,
        soft_pin_action=fake.SoftPinAction.ENABLE,
        soft_pin_ttl_ms=9,
        with_hard_pin=True,
        preferred_segments=["a", "b"],
        preferred_segment="c",
        data_type=fake.WEIGHT,
        group_ids=["g"],
    )
    assert store.upsert("k", b"v", config) == 0
    assert last_put(store) == {
        "flags": 3,
        "replica_num": 2,
        "soft_pin": 1,
        "soft_pin_ttl": 9,
        "hard_pin": 1,
        "data_type": 3,
        "segments": 3,
        "groups": 1,
        "same_node": 0,
    }
    config.group_ids = ["g", "h"]
    assert store.put("k", b"v", config) == -600


def test_groups_follow_the_keys_that_are_left(fake, store):
    config = fake.ReplicateConfig(group_ids=["g", "h", "i"])
    data = bytearray(b"data")
    import ctypes

    pointer = ctypes.addressof((ctypes.c_char * 4).from_buffer(data))
    assert store.batch_put_from(["a", "b", "c"], [pointer, 0, pointer], [4, 4, 4], config) == [0, -600, 0]
    assert last_put(store)["groups"] == 2


SAME_NODE_REFUSED = ["put", "upsert", "put_batch", "upsert_batch", "put_parts", "upsert_parts", "put_from", "upsert_from"]


@pytest.mark.parametrize("method", SAME_NODE_REFUSED)
def test_same_node_is_only_for_multi_buffers(fake, store, method):
    config = fake.ReplicateConfig(prefer_alloc_in_same_node=True)
    data = bytearray(b"data")
    import ctypes

    pointer = ctypes.addressof((ctypes.c_char * 4).from_buffer(data))
    arguments = {"put_batch": (["k"], [b"v"]), "upsert_batch": (["k"], [b"v"]), "put_from": ("k", pointer, 4), "upsert_from": ("k", pointer, 4)}
    assert getattr(store, method)(*arguments.get(method, ("k", b"v")), config=config) == -600
    assert store.batch_put_from(["k"], [pointer], [4], config) == [-600]
    assert store.batch_upsert_from(["k"], [pointer], [4], config=config) == [-600]
    assert store.put_from_with_metadata("k", pointer, pointer, 4, 4, config) == 600
    assert store.is_exist("k") == 0
    assert store.batch_put_from_multi_buffers(["k"], [[pointer]], [[4]], config) == [0]
    assert last_put(store)["same_node"] == 1


@pytest.mark.parametrize("tier", ["nof_replica_num", "dfs_replica_num"])
def test_tiers_that_are_not_there_are_refused(fake, store, tier, capfd):
    config = fake.ReplicateConfig(**{tier: 1})
    assert store.put("k", b"v", config) == -600
    assert store.put_batch(["k"], [b"v"], config) == -600
    assert store.batch_put_from(["k"], [1], [1], config) == [-600]
    assert tier in capfd.readouterr().err


# ---- enumerations ----

ENUMS = {
    "ObjectDataType": "UNKNOWN KVCACHE TENSOR WEIGHT SAMPLE ACTIVATION GRADIENT OPTIMIZER_STATE METADATA GENERAL",
    "SoftPinAction": "PRESERVE ENABLE DISABLE",
    "ReplicaStatus": "UNDEFINED INITIALIZED PROCESSING COMPLETE REMOVED FAILED",
    "TaskType": "REPLICA_COPY REPLICA_MOVE",
    "TaskStatus": "PENDING PROCESSING FAILED SUCCESS",
}


@pytest.mark.parametrize("name", ENUMS)
def test_enumerations(fake, name):
    enum = getattr(fake, name)
    members = ENUMS[name].split()
    assert list(enum.__members__) == members
    for value, member_name in enumerate(members):
        member = getattr(enum, member_name)
        assert (member.name, member.value, int(member)) == (member_name, value, value)
        assert enum(value) is member and enum(member) is member
        assert member == member and member == value and not member != value and hash(member) == hash(value)
        assert repr(member) == f"<{name}.{member_name}: {value}>" and str(member) == f"{name}.{member_name}"
        assert type(member) is enum and [10, 20, 30, 40, 50, 60, 70, 80, 90, 100][member] == (value + 1) * 10
        assert copy.copy(member) is member and copy.deepcopy(member) is member
    for wrong in (len(members), -1, "x", None, 1.0):
        with pytest.raises((ValueError, TypeError)):
            enum(wrong)
    with pytest.raises(TypeError):
        enum()


def test_members_of_different_enumerations_are_different(fake):
    assert fake.ReplicaStatus.PROCESSING != fake.ObjectDataType.TENSOR
    assert fake.ReplicaStatus.UNDEFINED < fake.ReplicaStatus.FAILED
    with pytest.raises(TypeError):
        fake.ReplicaStatus.UNDEFINED < fake.TaskStatus.FAILED


def test_exported_members(fake):
    assert fake.KVCACHE is fake.ObjectDataType.KVCACHE and fake.COMPLETE is fake.ReplicaStatus.COMPLETE
    assert fake.PROCESSING is fake.TaskStatus.PROCESSING and fake.FAILED is fake.TaskStatus.FAILED
    assert fake.REPLICA_MOVE is fake.TaskType.REPLICA_MOVE
    assert not hasattr(fake, "PRESERVE") and not hasattr(fake, "ENABLE")


def test_members_can_be_pickled(python):
    python(
        "import pickle, mooncake.store as m\n"
        "for member in (m.KVCACHE, m.SoftPinAction.ENABLE, m.FAILED):\n"
        "    assert pickle.loads(pickle.dumps(member)) is member\n"
    )
