# The `aws` command's own walk, its waiters included: aws_command.sh AWS. Each waits for what has come already, since they
# ask twice a minute at most.
aws() { "$AWS" "$@"; }
AWS=$1
until_is() { # WORD COMMAND …
    word=$1 && shift
    for _ in $(seq 300); do
        said=$("$@" 2>/dev/null || echo gone)
        [ "$said" != "$word" ] || return 0
        sleep 0.2
    done
    echo "$* says $said, not $word" && exit 1
}
account=$(aws sts get-caller-identity --query Account --output text)
role=$(aws iam get-role --role-name AmazonSageMaker-ExecutionRole --query Role.Arn --output text)
bucket=sagemaker-by-the-command
image=$account.dkr.ecr.$AWS_REGION.amazonaws.com/sagemaker-knn
aws s3 mb "s3://$bucket"
aws s3 cp "$CONTAINER/../data/iris.csv" "s3://$bucket/iris/"
aws ecr create-repository --repository-name sagemaker-knn --query repository.repositoryName
"$PYTHON" -m localaws build knn -t knn
"$PYTHON" -m localaws push knn "$image"
aws sagemaker create-training-job --training-job-name one --role-arn "$role" \
    --algorithm-specification "TrainingImage=$image,TrainingInputMode=File" \
    --input-data-config "ChannelName=training,DataSource={S3DataSource={S3DataType=S3Prefix,S3Uri=s3://$bucket/iris/}}" \
    --output-data-config "S3OutputPath=s3://$bucket/output" --stopping-condition MaxRuntimeInSeconds=600 \
    --resource-config InstanceType=ml.m5.large,InstanceCount=1,VolumeSizeInGB=1
training="aws sagemaker describe-training-job --training-job-name one --output text --query"
until_is Completed $training TrainingJobStatus
aws sagemaker wait training-job-completed-or-stopped --training-job-name one
aws logs filter-log-events --log-group-name /aws/sagemaker/TrainingJobs --log-stream-name-prefix one/ --query "events[].message"
aws sagemaker create-model --model-name one --execution-role-arn "$role" \
    --primary-container "Image=$image,ModelDataUrl=$($training ModelArtifacts.S3ModelArtifacts)"
aws sagemaker create-endpoint-config --endpoint-config-name one \
    --production-variants VariantName=all,ModelName=one,InitialInstanceCount=1,InstanceType=ml.m5.large
aws sagemaker create-endpoint --endpoint-name one --endpoint-config-name one
endpoint="aws sagemaker describe-endpoint --endpoint-name one --output text --query EndpointStatus"
until_is InService $endpoint
aws sagemaker wait endpoint-in-service --endpoint-name one
printf '5.1,3.5,1.4,0.2\n' >row.csv
aws sagemaker-runtime invoke-endpoint --endpoint-name one --content-type text/csv --body fileb://row.csv answer.csv
echo "ANSWERED $(cat answer.csv)"
aws s3 cp row.csv "s3://$bucket/rows/row.csv"
aws sagemaker create-transform-job --transform-job-name one --model-name one \
    --transform-input "ContentType=text/csv,SplitType=Line,DataSource={S3DataSource={S3DataType=S3Prefix,S3Uri=s3://$bucket/rows/}}" \
    --transform-output "S3OutputPath=s3://$bucket/out" --transform-resources InstanceType=ml.m5.large,InstanceCount=1
until_is Completed aws sagemaker describe-transform-job --transform-job-name one --output text --query TransformJobStatus
aws sagemaker wait transform-job-completed-or-stopped --transform-job-name one
echo "TRANSFORMED $(aws s3 cp "s3://$bucket/out/row.csv.out" -)"
aws sagemaker create-processing-job --processing-job-name one --role-arn "$role" \
    --app-specification "ImageUri=$image,ContainerEntrypoint=sh,ContainerArguments=-c,true" \
    --processing-resources "ClusterConfig={InstanceCount=1,InstanceType=ml.m5.large,VolumeSizeInGB=1}"
until_is Completed aws sagemaker describe-processing-job --processing-job-name one --output text --query ProcessingJobStatus
aws sagemaker wait processing-job-completed-or-stopped --processing-job-name one
aws sagemaker delete-endpoint --endpoint-name one
until_is gone $endpoint
aws sagemaker wait endpoint-deleted --endpoint-name one
echo "WAITED"
