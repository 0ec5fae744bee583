# gke setup
git -C /mmjax archive --format=tar.gz -o /cache/code-0123456789ab.tar.gz 0123456789abcdef0123456789abcdef01234567
gcloud builds submit /cache/code-0123456789ab.tar.gz --project=my-project --config=/mmjax/launch/cloudbuild.yaml --substitutions=_IMAGE=us-docker.pkg.dev/my-project/images/mmjax:0123456789ab

# gke logs
kubectl config current-context
kubectl logs --selector=jobset.sigs.k8s.io/jobset-name=scan --prefix --follow --tail=200 --max-log-requests=1000

# gke status
kubectl config current-context
kubectl get jobset,pods --selector=jobset.sigs.k8s.io/jobset-name=scan --output=wide

# gke stop
kubectl config current-context
kubectl get jobset scan --ignore-not-found --output=json
kubectl patch jobset scan --type=merge '--patch={"spec":{"suspend":true}}'

# gke delete
kubectl config current-context
kubectl delete jobset scan --ignore-not-found
kubectl delete secret scan-env --ignore-not-found

# gke run
kubectl config current-context
kubectl get jobset scan --ignore-not-found --output=json
kubectl apply --filename=- <<'END'
{
 "apiVersion": "jobset.x-k8s.io/v1alpha2",
 "kind": "JobSet",
 "metadata": {
  "name": "scan",
  "labels": {},
  "annotations": {
   "alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"
  }
 },
 "spec": {
  "ttlSecondsAfterFinished": 604800,
  "failurePolicy": {
   "maxRestarts": 20,
   "rules": [
    {
     "action": "FailJobSet",
     "onJobFailureReasons": [
      "PodFailurePolicy"
     ]
    }
   ]
  },
  "replicatedJobs": [
   {
    "name": "slice",
    "replicas": 1,
    "template": {
     "spec": {
      "parallelism": 4,
      "completions": 4,
      "backoffLimit": 0,
      "podFailurePolicy": {
       "rules": [
        {
         "action": "FailJob",
         "onExitCodes": {
          "containerName": "mmjax",
          "operator": "In",
          "values": [
           1,
           2,
           3,
           130
          ]
         }
        }
       ]
      },
      "template": {
       "spec": {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 300,
        "nodeSelector": {
         "cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice",
         "cloud.google.com/gke-tpu-topology": "4x4"
        },
        "containers": [
         {
          "name": "mmjax",
          "image": "us-docker.pkg.dev/my-project/images/mmjax:0123456789ab",
          "command": [
           "python",
           "-m",
           "mmjax.main",
           "--config=configs/retrieval.py:demo",
           "--workdir=gs://bucket/scan",
           "--distributed=on"
          ],
          "ports": [
           {
            "containerPort": 8471
           },
           {
            "containerPort": 8482
           }
          ],
          "resources": {
           "limits": {
            "google.com/tpu": 4
           }
          }
         }
        ]
       }
      }
     }
    }
   }
  ]
 }
}
END
# every 30 s until it is Completed or Failed:
kubectl get jobset scan --ignore-not-found --output=json
