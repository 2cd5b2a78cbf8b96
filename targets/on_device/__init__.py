"""All that travels to a board, as a folder: Python 3.8, the standard library, numpy and the runtimes.

Everything runs as a module from the folder above, python3 -m on_device.NAME, and imports its siblings relatively:

    run, start                          a bundle's ./run, by hand on a board without network
    measure                             a job, whoever starts it: here, over ssh, from run
    probe, jetson, golden_run           the programs that it starts: CPU runtimes, TensorRT, outputs against home
    job, session, results               what is asked and said; what is done and missing; where it is kept
    rounds, worker, runtimes            how models take turns, in processes of their own, opened by one function each
    trtexec, engines, arms, dry_run     TensorRT's
    board, install, jetpacks, sysfs     what the device is, and what it lacks
    watch, power, clocks, nvpmodel      heat, throttling, energy; what is set for a run and put back
    infer                               a deployed folder's program, beside a copy of runtimes
    remote                              the board's end of an ssh connection
"""
