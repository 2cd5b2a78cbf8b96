"""Everything that is copied to a board, as a folder: Python 3.8, the standard library, numpy and the runtimes.

Everything runs as a module from the parent folder, python3 -m on_device.NAME, and imports its siblings relatively:

    run, start                          a bundle's ./run, by hand on a board without network
    measure                             runs a job, started on this machine, over ssh, or by run
    probe, jetson, golden_run           the programs that it starts: CPU runtimes, TensorRT, comparison of outputs
    job, session, results               job and output rows; what is done and missing; where results are stored
    rounds, worker, runtimes            interleaved turns of models, one process each; one function opens each runtime
    trtexec, engines, arms, dry_run     TensorRT
    board, install, jetpacks, sysfs     properties of the device, and missing packages
    watch, power, clocks, nvpmodel      heat, throttling, energy; settings that are changed for a run and restored
    infer                               a deployed folder's program, beside a copy of runtimes
    remote                              the board's end of an ssh connection
"""
