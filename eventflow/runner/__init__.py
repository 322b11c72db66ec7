"""The shell around the machine: it owns a run, runs task bodies, and appends the events.

    flow_runner      hold a run or follow its owner         run_loop        one ownership of a run
    run_writer       the run's stream                       ownership       fold, watch and check a run
    inbox            reports that are not stored yet        round           reports in, one batch of events out
    scheduler        everything that follows in a round     retry_timers    retries by elapsed time
    start_gate       starts wait for a free lane            map_width       how many children a map gets
    workers          the tasks in which bodies run          body            async bodies and their timeouts
    task_runner      one attempt of one task                executor_calls  calls as an executor takes them
    task_context     the context of a body                  failures        exceptions as data
    live_values      inputs, and values kept in memory      cache_lookup    cache hits and misses
    cache_keys       the key of a call                      graph_record    the flow's graph in the log
    compatibility    may today's flow continue the run?     parameters      are they those of the run?

`run_loop` shows how they fit together, and where later additions belong.
"""
