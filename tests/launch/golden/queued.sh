# queued create
gcloud compute tpus queued-resources list '--format=json(name,state)' --project=my-project --zone=us-west4-a
gcloud compute tpus queued-resources create scan --project=my-project --zone=us-west4-a --node-id=scan --accelerator-type=v5litepod-16 --runtime-version=v2-alpha-tpuv5-lite --valid-until-duration=24h
# every 60 s until it is ACTIVE, for at most 24 h
gcloud compute tpus queued-resources list '--format=json(name,state)' --project=my-project --zone=us-west4-a

# queued setup
git -C /mmjax archive --format=tar.gz -o /cache/code-0123456789ab.tar.gz 0123456789abcdef0123456789abcdef01234567
gcloud compute tpus tpu-vm ssh scan --worker=all --quiet --project=my-project --zone=us-west4-a '--command=mkdir -p -m 700 mmjax-scan'
gcloud compute tpus tpu-vm scp /cache/code-0123456789ab.tar.gz /mmjax/launch/worker.py scan:mmjax-scan/ --project=my-project --zone=us-west4-a --worker=all --quiet
gcloud compute tpus tpu-vm ssh scan --worker=all --quiet --project=my-project --zone=us-west4-a '--command=python3 mmjax-scan/worker.py setup --version=0123456789abcdef0123456789abcdef01234567 '"'"'--requirement=jax[tpu]'"'"''

# queued logs
gcloud compute tpus tpu-vm ssh scan --worker=0 --quiet --project=my-project --zone=us-west4-a '--command=python3 mmjax-scan/worker.py logs'

# queued status
gcloud compute tpus queued-resources list '--format=json(name,state)' --project=my-project --zone=us-west4-a
gcloud compute tpus tpu-vm ssh scan --worker=all --quiet --project=my-project --zone=us-west4-a '--command=python3 mmjax-scan/worker.py status'

# queued stop
gcloud compute tpus queued-resources list '--format=json(name,state)' --project=my-project --zone=us-west4-a
gcloud compute tpus tpu-vm ssh scan --worker=all --quiet --project=my-project --zone=us-west4-a '--command=python3 mmjax-scan/worker.py stop'

# queued delete
gcloud compute tpus queued-resources list '--format=json(name,state)' --project=my-project --zone=us-west4-a
gcloud compute tpus queued-resources delete scan --project=my-project --zone=us-west4-a --quiet --force

# queued train
gcloud compute tpus queued-resources list '--format=json(name,state)' --project=my-project --zone=us-west4-a
gcloud compute tpus queued-resources create scan --project=my-project --zone=us-west4-a --node-id=scan --accelerator-type=v5litepod-16 --runtime-version=v2-alpha-tpuv5-lite --valid-until-duration=24h --spot
# every 60 s until it is ACTIVE, for at most 24 h
gcloud compute tpus queued-resources list '--format=json(name,state)' --project=my-project --zone=us-west4-a
git -C /mmjax archive --format=tar.gz -o /cache/code-0123456789ab.tar.gz 0123456789abcdef0123456789abcdef01234567
gcloud compute tpus tpu-vm ssh scan --worker=all --quiet --project=my-project --zone=us-west4-a '--command=mkdir -p -m 700 mmjax-scan'
gcloud compute tpus tpu-vm scp /cache/code-0123456789ab.tar.gz /mmjax/launch/worker.py scan:mmjax-scan/ --project=my-project --zone=us-west4-a --worker=all --quiet
gcloud compute tpus tpu-vm ssh scan --worker=all --quiet --project=my-project --zone=us-west4-a '--command=python3 mmjax-scan/worker.py setup --version=0123456789abcdef0123456789abcdef01234567 '"'"'--requirement=jax[tpu]'"'"''
gcloud compute tpus tpu-vm ssh scan --worker=all --quiet --project=my-project --zone=us-west4-a '--command=python3 mmjax-scan/worker.py start --version=0123456789abcdef0123456789abcdef01234567 -- --config=configs/retrieval.py:demo --workdir=gs://bucket/scan --distributed=on'
# every 30 s until the run is over:
gcloud compute tpus tpu-vm ssh scan --worker=0 --quiet --project=my-project --zone=us-west4-a '--command=python3 mmjax-scan/worker.py logs'
gcloud compute tpus tpu-vm ssh scan --worker=all --quiet --project=my-project --zone=us-west4-a '--command=python3 mmjax-scan/worker.py status'
gcloud compute tpus queued-resources list '--format=json(name,state)' --project=my-project --zone=us-west4-a
gcloud compute tpus queued-resources delete scan --project=my-project --zone=us-west4-a --quiet --force

# queued run
gcloud compute tpus queued-resources list '--format=json(name,state)' --project=my-project --zone=us-west4-a
gcloud compute tpus tpu-vm ssh scan --worker=all --quiet --project=my-project --zone=us-west4-a '--command=python3 mmjax-scan/worker.py start --version=0123456789abcdef0123456789abcdef01234567 -- --config=configs/retrieval.py:demo --workdir=gs://bucket/scan --distributed=on'
# every 30 s until the run is over:
gcloud compute tpus tpu-vm ssh scan --worker=0 --quiet --project=my-project --zone=us-west4-a '--command=python3 mmjax-scan/worker.py logs'
gcloud compute tpus tpu-vm ssh scan --worker=all --quiet --project=my-project --zone=us-west4-a '--command=python3 mmjax-scan/worker.py status'
# scan goes on costing money until `delete`
