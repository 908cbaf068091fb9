# What version 2 of the `aws` command has beyond the first, on a job that waits to be watched: aws_command_2.sh AWS.
AWS=$1
until_seen() { # WORD FILE
    for _ in $(seq 300); do
        ! grep -q "$1" "$2" || return 0
        sleep 0.2
    done
    echo "no $1 in $2:" && cat "$2" && exit 1
}
mkdir program
cat >program/train <<'END'
#!/bin/sh
echo first line
while [ ! -e "$GO" ]; do sleep 0.1; done
echo last line
echo model >"$SAGEMAKER_BASE_DIR/model/model.txt"
END
role=$("$AWS" iam get-role --role-name AmazonSageMaker-ExecutionRole --query Role.Arn --output text)
"$AWS" s3 mb s3://sagemaker-by-version-2
image=$("$AWS" ecr create-repository --repository-name by-version-2 --query repository.repositoryUri --output text)
"$PYTHON" -m localaws build ./program --target train -t by-version-2
"$PYTHON" -m localaws push by-version-2 "$image"
"$AWS" sagemaker create-training-job --training-job-name two --role-arn "$role" \
    --algorithm-specification "TrainingImage=$image,TrainingInputMode=File" --environment "GO=$PWD/go" \
    --output-data-config S3OutputPath=s3://sagemaker-by-version-2 --stopping-condition MaxRuntimeInSeconds=600 \
    --resource-config InstanceType=ml.m5.large,InstanceCount=1,VolumeSizeInGB=1

tail="logs tail /aws/sagemaker/TrainingJobs --log-stream-name-prefix two/ --since 1h --format short"
for _ in $(seq 100); do
    "$AWS" $tail >told.txt 2>&1 || true
    ! grep -q 'first line' told.txt || break
done
cat told.txt
PYTHONUNBUFFERED=1 "$AWS" $tail --follow >followed.txt 2>&1 &
follower=$!
until_seen 'first line' followed.txt
touch go
until_seen 'last line' followed.txt
kill $follower
wait $follower || true
grep -c 'first line' followed.txt
echo "FOLLOWED $(grep 'last line' followed.txt)"

for _ in $(seq 100); do
    status=$("$AWS" sagemaker describe-training-job --training-job-name two --query TrainingJobStatus --output text)
    [ "$status" = InProgress ] || break
done
"$AWS" sagemaker wait training-job-completed-or-stopped --training-job-name two
"$AWS" s3 cp --no-progress s3://sagemaker-by-version-2/two/output/model.tar.gz .
echo "MODEL $(tar xzOf model.tar.gz model.txt)"
"$AWS" ecr get-login-password >password
"$PYTHON" - "$image" <<'END'
import base64, sys, urllib.request
login = base64.b64encode(b"AWS:" + open("password", "rb").read().strip()).decode()
host, _, name = sys.argv[1].partition("/")
asked = urllib.request.Request(f"http://{host}/v2/{name}/tags/list", headers={"Authorization": f"Basic {login}"})
print("TAGS", urllib.request.urlopen(asked).read().decode())
END
