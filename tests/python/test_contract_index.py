"""Contract: each row of what the API promises beyond the calls themselves, and the tests that hold it.

The calls have tests of their own names (test_contract_calls.py, test_contract_tensors.py), the result codes too (test_contract_codes.py). Here are the attributes
of ReplicateConfig, the classes, the rules of the master and the names of clients: row -> tests, in files of tests/python unless a path says otherwise.
"""

import re

import pytest
from python_support import ROOT

PUT = "tests/unit/master_service/test_svc_put.c"
LEASE = "tests/unit/master_service/test_svc_lease.c"
EVICT = "tests/unit/master_service/test_svc_evict.c"
SESSION = "tests/unit/master_service/test_svc_session.c"
TASK = "tests/unit/master_service/test_svc_task.c"
FAULT = "tests/unit/client/test_store_fault.c"
SYSTEM = "tests/system"

ROWS = {
    # attributes of ReplicateConfig: default, type, effect
    "config: replica_num": ["test_contract_api.py::test_config_defaults", "test_config.py::test_numbers_are_64_bits_without_a_sign", "test_contract_master.py::test_replicas_lie_in_distinct_segments"],
    "config: nof_replica_num, dfs_replica_num": ["test_contract_api.py::test_config_defaults", "test_config.py::test_tiers_that_are_not_there_are_refused"],
    "config: with_soft_pin": ["test_contract_api.py::test_config_enums_and_the_alias_of_soft_pins", "test_contract_rows.py::test_soft_pins_are_never_evicted_when_the_master_says_so"],
    "config: soft_pin_action, soft_pin_ttl_ms": ["test_contract_api.py::test_a_soft_pin_ttl_that_is_none_is_a_type_error", "test_contract_master.py::test_soft_pin_times", "test_contract_rows.py::test_a_soft_pin_holds_for_its_time_from_the_first_readable_moment"],
    "config: with_hard_pin": ["test_contract_api.py::test_config_defaults", "test_contract_master.py::test_soft_pins_go_last_and_hard_pins_never"],
    "config: preferred_segment, preferred_segments": ["test_config.py::test_lists_of_texts", "test_contract_master.py::test_preferred_segments_are_tried_in_order"],
    "config: preferred_nof_segments": ["test_contract_api.py::test_config_defaults", "test_config.py::test_lists_of_texts"],
    "config: prefer_alloc_in_same_node": ["test_config.py::test_same_node_is_only_for_multi_buffers", "test_contract_segments.py::test_same_node_places_on_this_host"],
    "config: data_type": ["test_contract_api.py::test_config_enums_and_the_alias_of_soft_pins", "test_config.py::test_everything_reaches_the_library"],
    "config: group_ids": ["test_config.py::test_groups_follow_the_keys_that_are_left", "test_contract_master.py::test_groups_go_together"],
    "config: as text": ["test_contract_api.py::test_config_as_text", "test_config.py::test_text"],
    # classes
    "enumerations": ["test_config.py::test_enumerations", "test_config.py::test_exported_members", "test_config.py::test_members_can_be_pickled"],
    "BufferHandle": ["test_contract_calls.py::test_get_buffer", "test_contract_api.py::test_handles"],
    "Descriptor, MemoryDescriptor, DiskDescriptor, ReplicaDescriptor": ["test_results.py::test_descriptor_classes_are_records", "test_contract_calls.py::test_get_replica_desc"],
    "QueryTaskResponse": ["test_contract_tasks.py::test_a_response_is_a_plain_object"],
    "MooncakeHostMemAllocator": ["test_contract_segments.py::test_the_allocator_gives_memory_and_takes_only_its_own"],
    "get_alloc_func_addr, get_free_func_addr": ["test_contract_segments.py::test_the_functions_for_pluggable_allocators_are_callable"],
    "bind_to_numa_node": ["test_contract_segments.py::test_binding_to_a_node_never_fails"],
    "BufferPool: errors": ["test_package.py::test_wrong_pools", "test_package.py::test_a_pool_needs_a_store_with_a_local_buffer", "test_package.py::test_registration_that_fails"],
    "BufferPool: leases, capacity, waiting": ["test_package.py::test_a_lease_is_registered_aligned_writable_memory", "test_package.py::test_capacity_counts_what_is_leased", "test_package.py::test_a_waiting_acquire_gets_what_another_thread_releases"],
    "subclasses and attributes": ["test_results.py::test_subclasses_and_attributes"],
    "the asynchronous wrapper": ["test_contract_api.py::test_the_asynchronous_wrapper"],
    "before setup, after close, after a setup that failed": ["test_results.py::test_without_setup_calls_return_codes", f"{SYSTEM}/test_where_the_original_breaks.py::test_calls_before_setup_and_after_close_are_codes"],
    "the GIL is released": ["test_threads.py::test_a_waiting_call_leaves_the_gil_to_others_and_ends_with_close"],
    # puts
    "put: no key, no bytes, no replica, a time without a pin": ["test_contract_calls.py::test_put", "test_contract_master.py::test_keys_that_are_none", "test_contract_master.py::test_no_replica_at_all_is_refused", "test_contract_master.py::test_soft_pin_times"],
    "put: a key that is there": ["test_contract_api.py::test_put_and_get"],
    "put: a key that another is putting": [f"{SYSTEM}/test_unfinished_puts.py::test_an_unfinished_put_is_not_readable_and_not_removed", f"{FAULT}::a_put_that_meets_anothers_finishes_its_batch_first_and_then_waits"],
    "put: an unfinished one older than the discard timeout": [f"{SYSTEM}/test_unfinished_puts.py::test_an_old_unfinished_put_is_pre_empted_and_its_space_comes_back", f"{PUT}::an_old_open_put_is_pre_empted_and_its_writer_fenced"],
    "put: the end is its writer's, and may be repeated": [f"{PUT}::put_end_is_idempotent_by_generation", f"{PUT}::rights_are_macs_for_the_session_that_asked"],
    "put: a fresh object has no lease": ["test_contract_api.py::test_puts_grant_none_and_a_lease_ends", f"{LEASE}::a_fresh_object_has_no_lease_and_a_read_grants_one"],
    "put: every replica is written, or none counts": [f"{FAULT}::one_replica_that_fails_revokes_all_of_its_key_and_none_of_others", f"{FAULT}::a_put_without_another_place_fails_with_what_went_wrong"],
    "put: not readable before its end": [f"{PUT}::a_put_is_readable_after_its_end_and_not_before"],
    # leases
    "lease: its time": ["test_contract_admin.py::test_a_flag_has_its_documented_default", "test_contract_rows.py::test_a_lease_is_over_after_exactly_its_time", f"{LEASE}::a_lease_expires_exactly_at_its_ttl"],
    "lease: what grants one": ["test_contract_api.py::test_reads_grant_a_lease_that_blocks_removal", "test_contract_admin.py::test_keys_are_shown_and_leased"],
    "lease: extended, never shortened": [f"{LEASE}::reads_extend_a_lease_and_nothing_shortens_it"],
    "lease: of a group": ["test_contract_segments.py::test_a_read_of_one_member_leases_its_group", f"{LEASE}::a_read_of_one_member_leases_its_group"],
    "lease: blocks removal, clearing, eviction": ["test_contract_calls.py::test_remove", "test_contract_segments.py::test_what_replica_clear_passes_over", "test_contract_master.py::test_what_is_leased_is_not_evicted"],
    "lease: bulk removals pass over": ["test_contract_master.py::test_remove_all_counts_and_passes_leased_ones_over", f"{LEASE}::leased_and_open_keys_are_skipped_by_bulk_removals"],
    "lease: does not block an upsert": ["test_contract_rows.py::test_a_lease_does_not_block_upserts_and_goes_on_with_the_new_value"],
    "lease: over during a read": [f"{FAULT}::a_lease_that_has_run_out_is_asked_for_again_and_finally_an_error"],
    # upserts
    "upsert: a missing key": ["test_contract_calls.py::test_upsert", f"{PUT}::an_upsert_of_a_missing_key_is_a_put"],
    "upsert: of a key that another is putting": [f"{SYSTEM}/test_unfinished_puts.py::test_an_upsert_pre_empts_an_unfinished_put_at_once", f"{PUT}::an_upsert_pre_empts_an_open_put_at_once"],
    "upsert: of the same and of another size": ["test_contract_calls.py::test_upsert", f"{PUT}::an_upsert_swaps_at_its_commit_and_gives_the_old_extents_back"],
    "upsert: pins and groups": [f"{PUT}::upserts_keep_pins_and_do_not_change_groups"],
    "upsert: by another client": ["test_contract_api.py::test_another_client_may_upsert"],
    "upsert: one that fails": [f"{PUT}::a_revoked_upsert_leaves_the_old_value"],
    # pins, groups
    "soft pin: life time": ["test_contract_rows.py::test_a_soft_pin_holds_for_its_time_from_the_first_readable_moment", f"{EVICT}::a_soft_pin_of_zero_is_none"],
    "soft pin: evicted last, or not at all": ["test_contract_master.py::test_soft_pins_go_last_and_hard_pins_never", f"{EVICT}::soft_pins_hold_when_the_flag_says_so_until_they_run_out"],
    "hard pin": [f"{EVICT}::hard_pinned_objects_stay_and_soft_pinned_ones_go_last"],
    "groups: evicted together": ["test_contract_master.py::test_groups_go_together", f"{EVICT}::groups_go_together_or_not_at_all"],
    # placement
    "placement: distinct names": ["test_contract_master.py::test_replicas_lie_in_distinct_segments", f"{PUT}::replicas_lie_on_distinct_names"],
    "placement: as many as there can be": ["test_contract_master.py::test_more_replicas_than_segments_is_as_many_as_there_are"],
    "placement: random, with preferences": ["test_contract_rows.py::test_random_uses_all_segments_and_falls_back_from_a_full_one", f"{PUT}::preferred_segments_come_first_and_excluded_ones_never"],
    "placement: free_ratio_first, local_first": ["test_contract_rows.py::test_free_ratio_first_fills_evenly", "test_contract_rows.py::test_local_first_puts_where_the_writer_is"],
    "placement: no room": ["test_contract_master.py::test_a_value_that_fits_no_segment_is_no_space", f"{PUT}::a_full_store_refuses_a_put_at_once_when_it_is_not_to_wait", f"{PUT}::a_waiting_put_is_refused_at_its_deadline"],
    # eviction
    "eviction: above the watermark": [f"{EVICT}::above_the_watermark_the_oldest_go", f"{EVICT}::nothing_is_evicted_below_the_watermark"],
    "eviction: on demand": [f"{EVICT}::a_put_evicts_what_it_needs", f"{EVICT}::demand_alone_evicts_only_what_is_needed"],
    "eviction: order": ["test_contract_master.py::test_the_oldest_are_evicted_first"],
    # removal
    "remove: codes": ["test_contract_calls.py::test_remove", f"{LEASE}::a_key_being_put_cannot_be_removed", f"{TASK}::an_object_under_a_task_is_neither_removed_nor_evicted"],
    "remove_by_regex: a search, bounded": ["test_contract_calls.py::test_remove_by_regex", "test_contract_master.py::test_a_hard_expression_ends", f"{LEASE}::regular_expressions_are_searched_for"],
    "remove_all": ["test_contract_calls.py::test_remove_all", "test_contract_admin.py::test_remove_all_counts"],
    "batch_replica_clear": ["test_contract_segments.py::test_replica_clear_gives_up_one_replica_or_all", "test_contract_segments.py::test_what_replica_clear_passes_over"],
    # segments and clients
    "segments: mounted once": [f"{SESSION}::instances_are_mounted_once_and_handles_never_come_again"],
    "segments: only whole ones take objects": [f"{SESSION}::a_draining_segment_is_read_and_gets_nothing_new", "test_contract_segments.py::test_a_grace_period_takes_no_new_values"],
    "segments: unmounted by their owner": ["test_contract_rows.py::test_only_who_mounted_a_segment_unmounts_it_and_a_client_without_one_is_healthy"],
    "segments: replicas elsewhere survive": [f"{SESSION}::objects_with_replicas_elsewhere_survive", "test_contract_master.py::test_a_read_goes_on_to_another_replica_when_a_segment_leaves"],
    "clients: close takes their objects at once": ["test_contract_api.py::test_close_takes_the_segment_and_setup_works_again", f"{SESSION}::goodbye_unmounts_at_once"],
    "clients: silent for their time": ["test_contract_rows.py::test_a_client_that_is_silent_for_its_time_is_dropped_and_mounts_anew", f"{SESSION}::a_silent_client_is_dropped_at_its_ttl"],
    "clients: a master that came back": [f"{SYSTEM}/test_death.py::test_master_back_finds_its_clients_by_itself", f"{SYSTEM}/test_master_restart.py::test_a_stopped_master_has_its_index_again"],
    "clients: health_check": ["test_contract_calls.py::test_health_check", "test_contract_master.py::test_health_follows_the_master"],
    # reads
    "reads: the nearest replica": ["test_contract_rows.py::test_a_read_takes_the_nearest_replica"],
    "reads: the next one when it cannot be read": [f"{FAULT}::a_read_goes_on_to_the_next_replica", f"{SYSTEM}/test_stopped.py::test_reads_fail_over_from_a_stopped_holder_and_lose_no_buffer"],
    "reads: nothing complete": [f"{SYSTEM}/test_unfinished_puts.py::test_an_unfinished_put_is_not_readable_and_not_removed"],
    "tenants are ignored": ["test_contract_master.py::test_tenants_are_ignored_by_default"],
    # names of clients, metadata
    "names: with a port, without one, IPv6": ["test_contract_rows.py::test_names_of_clients"],
    "names: what is none": ["test_contract_rows.py::test_names_that_are_none"],
    "names: two of one name": ["test_contract_rows.py::test_two_clients_of_one_name_collide_only_in_the_central_mode"],
    "metadata: central": ["test_contract_admin.py::test_metadata", "test_processes.py::test_two_processes_read_each_other"],
    "metadata: of an unknown kind": [f"{SYSTEM}/test_where_the_original_breaks.py::test_metadata_of_an_unknown_kind_is_a_code"],
    "protocols": ["test_contract_calls.py::test_setup", "test_contract_engines.py::test_flexkv_asks_with_a_client_without_data_plane"],
}


@pytest.mark.parametrize("row", ROWS)
def test_a_row_has_its_tests(row):
    for name in ROWS[row]:
        path, function = name.split("::")
        text = (ROOT / (path if path.startswith("tests/") else f"tests/python/{path}")).read_text()
        assert re.search(rf"^(?:def |static void ){function}\(", text, re.MULTILINE), name
