# slurm setup
git -C /mmjax archive --format=tar.gz -o /cache/code-0123456789ab.tar.gz 0123456789abcdef0123456789abcdef01234567
mkdir -p /shared/scan
cp /cache/code-0123456789ab.tar.gz /mmjax/launch/worker.py /shared/scan
python3 /shared/scan/worker.py setup --version=0123456789abcdef0123456789abcdef01234567 '--requirement=jax[cuda13]'

# slurm logs
tail --lines=200 --follow /shared/scan/scan.log

# slurm status
squeue --me --name=scan '--format=%i %T %M %l %R'

# slurm stop
touch /shared/scan/scan.stopped
scancel --me --name=scan --state=PENDING
scancel --me --name=scan --signal=TERM

# slurm delete
touch /shared/scan/scan.stopped
scancel --me --name=scan

# slurm run
squeue --me --name=scan --noheader --format=%i
rm -f /shared/scan/scan.stopped
sbatch --parsable <<'END'
#!/bin/bash
#SBATCH --job-name=scan
#SBATCH --nodes=2
#SBATCH --gpus-per-node=8
#SBATCH --ntasks-per-node=8
#SBATCH --time=24:00:00
#SBATCH --output=/shared/scan/scan.log
#SBATCH --open-mode=append
#SBATCH --signal=TERM@300
#SBATCH --requeue
# This shell waits until mmjax has saved, whatever it is told meanwhile.
trap : TERM
srun --kill-on-bad-exit=0 --chdir=/shared/scan/code-0123456789ab /shared/scan/venv/bin/python /shared/scan/worker.py exec -- /shared/scan/venv/bin/python -m mmjax.main --config=configs/retrieval.py:demo --workdir=gs://bucket/scan --distributed=on
code=$?
case "$code" in 75|69)
  if [ ! -e /shared/scan/scan.stopped ] &&
    [ "${SLURM_RESTART_COUNT:-0}" -lt 20 ]; then
    scontrol requeue "$SLURM_JOB_ID"
  fi
esac
exit "$code"
END
# the log will be /shared/scan/scan.log
