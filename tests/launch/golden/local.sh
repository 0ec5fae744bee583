# local run
# at the same time:
env JAX_COORDINATOR_ADDRESS=127.0.0.1:29500 JAX_NUM_PROCESSES=2 JAX_PROCESS_ID=0 JAX_PLATFORMS=cpu python -m mmjax.main --config=configs/intent.py --workdir=r --distributed=on
env JAX_COORDINATOR_ADDRESS=127.0.0.1:29500 JAX_NUM_PROCESSES=2 JAX_PROCESS_ID=1 JAX_PLATFORMS=cpu python -m mmjax.main --config=configs/intent.py --workdir=r --distributed=on
