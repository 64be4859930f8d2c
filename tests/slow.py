"""Tests that `make test` leaves out, as others stand for them: `make test-all` runs them.

Each is a variant of a test that stays, and takes seconds. [measured: on 2 cores, where all tests may take ten minutes]
"""

SLOW = frozenset({
    "tests/cache/test_tables.py::test_warm_plans_are_cold_plans[moe-tiny-cluster-pins2]",
    "tests/cache/test_workers.py::test_a_program_that_was_sent_gives_the_same_tables[gpt2-tiny]",
    "tests/cache/test_workers.py::test_a_program_that_was_sent_gives_the_same_tables[phi3-tiny]",
    "tests/checkpoint/test_resume.py::test_optimizer_state_comes_from_and_goes_to_host_memory[devices to host]",
    "tests/checkpoint/test_resume.py::test_under_another_plan_the_curve_goes_on[1 stage on 4 to 2 on 8-mlp]",
    "tests/checkpoint/test_resume.py::test_under_another_plan_the_curve_goes_on[2 stages to 1-mlp]",
    "tests/checkpoint/test_resume.py::test_under_the_same_plan_every_bit_is_the_same[fsdp-mlp]",
    "tests/integration/test_foreign_models.py::"
    "test_a_users_model_is_planned_saved_and_run_as_on_one_device[state_space-pipeline]",
    "tests/integration/test_predicted_collectives.py::test_a_model_in_16_bit_communicates_in_32_on_cpu[fsdp-2]",
    "tests/integration/test_predicted_collectives.py::test_the_step_communicates_what_the_plan_says[gpt-tiny-fsdp-1]",
    "tests/integration/test_predicted_collectives.py::test_the_step_communicates_what_the_plan_says[gpt-tiny-tensor-1]",
    "tests/integration/test_recomputation.py::test_every_layer_is_recomputed_as_pinned[moe-tiny]",
    "tests/integration/test_recomputation.py::test_selected_tensors_made_again_train_as_on_one_device[gpt-tiny-pins3]",
    "tests/integration/test_zoo_runs.py::test_trains_as_on_one_device[llama-tiny-fsdp]",
    "tests/models/test_zoo.py::test_half_precision_is_close_to_float32[gpt2-tiny-bfloat16]",
    "tests/models/test_zoo.py::test_half_precision_is_close_to_float32[phi3-tiny-bfloat16]",
    "tests/models/test_zoo.py::test_large_models_are_abstract_and_their_loss_traces[gpt2-large]",
    "tests/models/test_zoo.py::test_large_models_are_abstract_and_their_loss_traces[gpt2-medium]",
    "tests/models/test_zoo.py::test_large_models_are_abstract_and_their_loss_traces[gpt2]",
    "tests/models/test_zoo.py::test_large_models_are_abstract_and_their_loss_traces[phi3-medium]",
    "tests/models/test_zoo.py::test_scanned_layers_compute_the_same[gpt2-tiny]",
    "tests/models/test_zoo.py::test_scanned_layers_compute_the_same[phi3-tiny]",
    "tests/processes/test_faults.py::test_all_end_when_one_is_killed[4]",
    "tests/processes/test_training.py::test_processes_train_as_one_device[4 processes]",
    "tests/runtime/test_host_memory.py::test_optimizers[optimizer1]",
    "tests/runtime/test_schedules.py::test_schedules_train_as_one_device_does[interleaved, 4 ranks of 2]",
    "tests/runtime/test_schedules.py::test_schedules_train_as_one_device_does[zb-h1, 2 ranks]",
    "tests/runtime/test_schedules.py::test_schedules_train_as_one_device_does[zb-v, 2 ranks]",
    "tests/runtime/test_schedules.py::test_state_and_skips_go_through_virtual_stages[interleaved]",
    "tests/test_examples.py::test_example_shows_its_plan_and_learns[equinox_module]",
    "tests/test_examples.py::test_example_shows_its_plan_and_learns[inference]",
})
"""Their names, as pytest gives them."""
