"""Deploys the template to moto's CloudFormation and starts bin/cmkeeper with the
environments of the stack's own task definitions: it has to repair a rotation, to alert,
and to move the objects of an alias that moved.

moto makes no events of calls, so that they are put on the bus here, and it leaves out
the policies of queues, topic and bucket, the alarms, the metric filters and the scaling:
what these have to say is checked by "go test ./deploy".
"""
import json
import logging
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
import warnings

import boto3
from moto.cloudformation import parsing
from moto.kms import models
from moto.server import ThreadedMotoServer

logging.disable(logging.ERROR)  # a line for each request
warnings.simplefilter("ignore")

# moto 5.2 keeps an item of a list that AWS::NoValue takes away, as None, and reads the tags
# of a key in a template as those of KMS's own API.
clean_json, tag_resource = parsing.clean_json, models.KmsBackend.tag_resource


def clean(value, resources):
    cleaned = clean_json(value, resources)
    return [item for item in cleaned if item is not None] if isinstance(cleaned, list) else cleaned


def tag(self, key, tags):
    return tag_resource(self, key, [t if "TagKey" in t else {"TagKey": t["Key"], "TagValue": t["Value"]} for t in tags])


parsing.clean_json, models.KmsBackend.tag_resource = clean, tag

ACCOUNT, REGION, PATIENCE = "123456789012", "us-east-1", 90


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def until(what, so):
    deadline = time.monotonic() + PATIENCE
    while not (value := so()):
        if time.monotonic() > deadline:
            raise SystemExit(f"not within {PATIENCE} s: {what}")
        time.sleep(0.2)
    print("ok   " + what)
    return value


def main():
    endpoint = f"http://127.0.0.1:{free_port()}"
    server = ThreadedMotoServer(port=int(endpoint.rsplit(":", 1)[1]), verbose=False)
    server.start()
    credentials = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": REGION, "AWS_ENDPOINT_URL": endpoint}
    session = boto3.Session("test", "test", region_name=REGION)
    client = lambda name: session.client(name, endpoint_url=endpoint)
    ec2, cloudformation, ecs, kms, s3, sqs, sns, events = map(client, ["ec2", "cloudformation", "ecs", "kms", "s3", "sqs", "sns", "events"])

    subnets = ec2.describe_subnets()["Subnets"][:2]
    parameters = {
        "Image": "cmkeeper:test", "VpcId": subnets[0]["VpcId"], "Subnets": ",".join(s["SubnetId"] for s in subnets),
        "RotationMode": "enforce", "ReencryptMode": "enforce", "ReencryptAliases": "alias/app*", "DataBuckets": "arn:aws:s3:::app-*",
    }
    with open("deploy/cloudformation/cmkeeper.yaml", encoding="utf-8") as f:
        cloudformation.create_stack(
            StackName="cmkeeper", Capabilities=["CAPABILITY_IAM"], TemplateBody=f.read(),
            Parameters=[{"ParameterKey": k, "ParameterValue": v} for k, v in parameters.items()],
        )
    until("the stack is created", lambda: cloudformation.describe_stacks(StackName="cmkeeper")["Stacks"][0]["StackStatus"] == "CREATE_COMPLETE")
    outputs = {o["OutputKey"]: o["OutputValue"] for o in cloudformation.describe_stacks(StackName="cmkeeper")["Stacks"][0]["Outputs"]}
    inbox = sqs.create_queue(QueueName="inbox")["QueueUrl"]
    sns.subscribe(TopicArn=outputs["AlertTopic"], Protocol="sqs", Endpoint=f"arn:aws:sqs:{REGION}:{ACCOUNT}:inbox", Attributes={"RawMessageDelivery": "true"})

    key = lambda: kms.create_key()["KeyMetadata"]["Arn"]
    rotating, old, new = key(), key(), key()
    kms.enable_key_rotation(KeyId=rotating)
    kms.create_alias(AliasName="alias/app", TargetKeyId=old.rsplit("/", 1)[1])
    s3.create_bucket(Bucket="app-data")
    s3.put_bucket_encryption(Bucket="app-data", ServerSideEncryptionConfiguration={"Rules": [{"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": "alias/app"}}]})
    for i in range(5):
        s3.put_object(Bucket="app-data", Key=f"object-{i}", Body=f"body {i}".encode(), ServerSideEncryption="aws:kms", SSEKMSKeyId=old)

    def call(name, arn, **request):
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        record = {
            "eventVersion": "1.11", "eventTime": now, "eventSource": "kms.amazonaws.com", "eventName": name, "awsRegion": REGION, "eventID": str(uuid.uuid4()),
            "requestID": str(uuid.uuid4()), "eventType": "AwsApiCall", "managementEvent": True, "readOnly": False, "recipientAccountId": ACCOUNT, "eventCategory": "Management",
            "userIdentity": {"type": "IAMUser", "principalId": "AIDAMALLORY", "arn": f"arn:aws:iam::{ACCOUNT}:user/mallory", "accountId": ACCOUNT, "userName": "mallory"},
            "sourceIPAddress": "192.0.2.1", "userAgent": "test", "requestParameters": request, "responseElements": None, "resources": [{"accountId": ACCOUNT, "type": "AWS::KMS::Key", "ARN": arn}],
        }
        events.put_events(Entries=[{"Source": "aws.kms", "DetailType": "AWS API Call via CloudTrail", "Detail": json.dumps(record)}])

    alerts = []

    def told(kind, status):
        for m in sqs.receive_message(QueueUrl=inbox, MaxNumberOfMessages=10).get("Messages", []):
            alerts.append(json.loads(m["Body"]))
            sqs.delete_message(QueueUrl=inbox, ReceiptHandle=m["ReceiptHandle"])
        return any(a["kind"] == kind and a["action"]["status"] == status for a in alerts)

    workers, logs = [], []
    ended = False
    try:
        for family in ["cmkeeper-jobs", "cmkeeper-events"]:
            container = ecs.describe_task_definition(taskDefinition=family)["taskDefinition"]["containerDefinitions"][0]
            environment = {v["name"]: v["value"] for v in container["environment"]}
            port = free_port()
            logs.append(tempfile.NamedTemporaryFile("w+", prefix=family, suffix=".log"))
            # Only what the host decides is added: where the health check listens, and how S3 is addressed.
            environment |= credentials | {"CMKEEPER_HTTP_ADDR": f"127.0.0.1:{port}", "PATH": os.environ["PATH"]}
            workers.append(subprocess.Popen(["bin/cmkeeper"] + container["command"], env=environment, stderr=logs[-1]))

            def ready():
                if workers[-1].poll() is not None:
                    raise SystemExit(f"{family} has ended")
                try:
                    return urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2).status == 200
                except OSError:
                    return False

            until(f"{family} is ready, with the {len(container['environment'])} variables of its task definition", ready)

        until("a sweep has ended", lambda: '"msg":"sweep ended"' in open(logs[-1].name, encoding="utf-8").read())
        kms.disable_key_rotation(KeyId=rotating)
        call("DisableKeyRotation", rotating, keyId=rotating)
        until("rotation is repaired", lambda: kms.get_key_rotation_status(KeyId=rotating)["KeyRotationEnabled"])
        until("the repair is told", lambda: told("rotation", "done"))

        kms.update_alias(AliasName="alias/app", TargetKeyId=new.rsplit("/", 1)[1])
        call("UpdateAlias", new, aliasName="alias/app", targetKeyId=new)
        under = lambda: [s3.head_object(Bucket="app-data", Key=f"object-{i}").get("SSEKMSKeyId") for i in range(5)]
        until("the objects are under the alias's new key", lambda: set(under()) == {new})
        until("the move is told", lambda: told("reencryption", "done"))
        for i in range(5):
            if s3.get_object(Bucket="app-data", Key=f"object-{i}")["Body"].read() != f"body {i}".encode():
                raise SystemExit(f"object-{i} has other bytes")
        for w in workers:
            w.terminate()
        codes = [w.wait(timeout=60) for w in workers]
        if codes != [0, 0]:
            raise SystemExit(f"the workers ended with {codes}")
        ended = True
    finally:
        for w, log in zip(workers, logs):
            if w.poll() is None:
                w.kill()
                w.wait()
            if not ended:
                log.seek(0)
                sys.stderr.write(f"--- {log.name}\n" + "".join(log.readlines()[-40:]))
        server.stop()
    print("ok   the workers end with 0")


main()
