# Terraform makes what resources.tf says, finds nothing to change, and takes it away: terraform.sh RESOURCES PROVIDERS. Its
# provider is the installed one: nothing is fetched.
cp "$1" main.tf
cat >rc <<END
provider_installation {
  filesystem_mirror {
    path = "$2"
  }
}
END
export TF_CLI_CONFIG_FILE="$PWD/rc" CHECKPOINT_DISABLE=1
# An image that answers with its model, and a model.
mkdir server
cat >server/serve <<'END'
#!/usr/bin/env python3
import os
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

MODEL = Path(os.environ["SAGEMAKER_BASE_DIR"], "model", "model.txt").read_bytes()


class Model(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()

    def do_POST(self):
        self.do_GET()
        self.wfile.write(MODEL)


HTTPServer(("127.0.0.1", int(os.environ["SAGEMAKER_BIND_TO_PORT"])), Model).serve_forever()
END
printf 'terraformed model' >model.txt
tar czf model.tar.gz model.txt
image=$("$PYTHON" -m awscli ecr create-repository --repository-name server --query repository.repositoryUri --output text)
"$PYTHON" -m localaws build ./server --target serve -t server
"$PYTHON" -m localaws push server "$image"
export TF_VAR_image="$image" TF_VAR_artifact="$PWD/model.tar.gz"

terraform init -no-color
terraform apply -auto-approve -no-color
terraform plan -detailed-exitcode -no-color
"$PYTHON" -m awscli sagemaker-runtime invoke-endpoint --endpoint-name terraformed --body e30= answer.txt
echo "ANSWERED $(cat answer.txt)"
terraform destroy -auto-approve -no-color
