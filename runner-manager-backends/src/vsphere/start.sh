#!/bin/sh
# Starts the actions runner of this image with its JIT config, and powers the machine off after it.
# Made by Runner Manager.
trap 'poweroff' EXIT
cd /home/runner || exit 1
# The runner reads this variable as an argument, and takes it out of its environment before a job begins.
ACTIONS_RUNNER_INPUT_JITCONFIG='{{jit_config}}'
export ACTIONS_RUNNER_INPUT_JITCONFIG
su runner -s /bin/sh -c 'cd /home/runner && exec ./run.sh'
