# xpk setup
git -C /mmjax archive --format=tar.gz -o /cache/code-0123456789ab.tar.gz 0123456789abcdef0123456789abcdef01234567
gcloud builds submit /cache/code-0123456789ab.tar.gz --project=my-project --config=/mmjax/launch/cloudbuild.yaml --substitutions=_IMAGE=us-docker.pkg.dev/my-project/images/mmjax:0123456789ab

# xpk logs
kubectl logs --selector=jobset.sigs.k8s.io/jobset-name=scan --prefix --follow --tail=200 --max-log-requests=1000

# xpk status
xpk workload list --cluster=tpus --project=my-project --zone=us-west4-a --filter-by-job=scan

# xpk stop
xpk workload delete --cluster=tpus --project=my-project --zone=us-west4-a --workload=scan --force

# xpk delete
xpk workload delete --cluster=tpus --project=my-project --zone=us-west4-a --workload=scan --force

# xpk run
xpk workload list --cluster=tpus --project=my-project --zone=us-west4-a --filter-by-job=scan
xpk workload create --cluster=tpus --project=my-project --zone=us-west4-a --workload=scan --tpu-type=v5litepod-16 --num-slices=1 --docker-image=us-docker.pkg.dev/my-project/images/mmjax:0123456789ab --max-restarts=20 --restart-on-exit-codes=75,69 --termination-grace-period-seconds=300 '--command=python -m mmjax.main --config=configs/retrieval.py:demo --workdir=gs://bucket/scan --distributed=on'
xpk workload list --cluster=tpus --project=my-project --zone=us-west4-a --wait-for-job-completion=scan
