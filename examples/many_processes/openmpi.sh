#!/bin/bash
# 16 processes on the hosts of a file, one GPU each: ./openmpi.sh hosts.txt
mpirun --hostfile "$1" -n 16 python train.py --plan gpt.plan.json --folder run-1 --steps 10000
