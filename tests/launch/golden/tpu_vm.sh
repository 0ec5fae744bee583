# tpu_vm create
gcloud compute tpus tpu-vm list '--format=json(name,state)' --project=my-project --zone=us-west4-a
gcloud compute tpus tpu-vm create scan --project=my-project --zone=us-west4-a --accelerator-type=v5litepod-16 --version=v2-alpha-tpuv5-lite

# tpu_vm setup
git -C /mmjax archive --format=tar.gz -o /cache/code-0123456789ab.tar.gz 0123456789abcdef0123456789abcdef01234567
gcloud compute tpus tpu-vm ssh scan --worker=all --quiet --project=my-project --zone=us-west4-a '--command=mkdir -p -m 700 mmjax-scan'
gcloud compute tpus tpu-vm scp /cache/code-0123456789ab.tar.gz /mmjax/launch/worker.py scan:mmjax-scan/ --project=my-project --zone=us-west4-a --worker=all --quiet
gcloud compute tpus tpu-vm ssh scan --worker=all --quiet --project=my-project --zone=us-west4-a '--command=python3 mmjax-scan/worker.py setup --version=0123456789abcdef0123456789abcdef01234567 '"'"'--requirement=jax[tpu]'"'"''

# tpu_vm logs
gcloud compute tpus tpu-vm ssh scan --worker=0 --quiet --project=my-project --zone=us-west4-a '--command=python3 mmjax-scan/worker.py logs'

# tpu_vm status
gcloud compute tpus tpu-vm list '--format=json(name,state)' --project=my-project --zone=us-west4-a
gcloud compute tpus tpu-vm ssh scan --worker=all --quiet --project=my-project --zone=us-west4-a '--command=python3 mmjax-scan/worker.py status'

# tpu_vm stop
gcloud compute tpus tpu-vm list '--format=json(name,state)' --project=my-project --zone=us-west4-a
gcloud compute tpus tpu-vm ssh scan --worker=all --quiet --project=my-project --zone=us-west4-a '--command=python3 mmjax-scan/worker.py stop'

# tpu_vm delete
gcloud compute tpus tpu-vm list '--format=json(name,state)' --project=my-project --zone=us-west4-a
gcloud compute tpus tpu-vm delete scan --project=my-project --zone=us-west4-a --quiet

# tpu_vm train
gcloud compute tpus tpu-vm list '--format=json(name,state)' --project=my-project --zone=us-west4-a
gcloud compute tpus tpu-vm create scan --project=my-project --zone=us-west4-a --accelerator-type=v5litepod-16 --version=v2-alpha-tpuv5-lite --spot
git -C /mmjax archive --format=tar.gz -o /cache/code-0123456789ab.tar.gz 0123456789abcdef0123456789abcdef01234567
gcloud compute tpus tpu-vm ssh scan --worker=all --quiet --project=my-project --zone=us-west4-a '--command=mkdir -p -m 700 mmjax-scan'
gcloud compute tpus tpu-vm scp /cache/code-0123456789ab.tar.gz /mmjax/launch/worker.py scan:mmjax-scan/ --project=my-project --zone=us-west4-a --worker=all --quiet
gcloud compute tpus tpu-vm ssh scan --worker=all --quiet --project=my-project --zone=us-west4-a '--command=python3 mmjax-scan/worker.py setup --version=0123456789abcdef0123456789abcdef01234567 '"'"'--requirement=jax[tpu]'"'"''
gcloud compute tpus tpu-vm ssh scan --worker=all --quiet --project=my-project --zone=us-west4-a '--command=python3 mmjax-scan/worker.py start --version=0123456789abcdef0123456789abcdef01234567 -- --config=configs/retrieval.py:demo --workdir=gs://bucket/scan --distributed=on'
# every 30 s until the run is over:
gcloud compute tpus tpu-vm ssh scan --worker=0 --quiet --project=my-project --zone=us-west4-a '--command=python3 mmjax-scan/worker.py logs'
gcloud compute tpus tpu-vm ssh scan --worker=all --quiet --project=my-project --zone=us-west4-a '--command=python3 mmjax-scan/worker.py status'
gcloud compute tpus tpu-vm list '--format=json(name,state)' --project=my-project --zone=us-west4-a
gcloud compute tpus tpu-vm delete scan --project=my-project --zone=us-west4-a --quiet

# tpu_vm run
gcloud compute tpus tpu-vm list '--format=json(name,state)' --project=my-project --zone=us-west4-a
gcloud compute tpus tpu-vm ssh scan --worker=all --quiet --project=my-project --zone=us-west4-a '--command=python3 mmjax-scan/worker.py start --version=0123456789abcdef0123456789abcdef01234567 -- --config=configs/retrieval.py:demo --workdir=gs://bucket/scan --distributed=on'
# every 30 s until the run is over:
gcloud compute tpus tpu-vm ssh scan --worker=0 --quiet --project=my-project --zone=us-west4-a '--command=python3 mmjax-scan/worker.py logs'
gcloud compute tpus tpu-vm ssh scan --worker=all --quiet --project=my-project --zone=us-west4-a '--command=python3 mmjax-scan/worker.py status'
# scan goes on costing money until `delete`
