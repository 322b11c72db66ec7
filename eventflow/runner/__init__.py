"""The thin shell around the machine: it owns a run, runs task bodies, and appends what happens.

flow_runner   the loop                 values      a task's inputs, and live values
task_runner   one attempt              failures    exceptions as data
ownership     who runs a run           rerun       what a new run keeps of an old one
caching       what need not run again  keys        what cached results are found by
"""
