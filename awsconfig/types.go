package awsconfig

// Type is a type of resources that AWS encrypts under a KMS key.
type Type struct {
	// Name is the type as AWS Config has it ("AWS::EC2::Volume").
	Name string
	// Kind is a word for ids ("ebs-volume"), Title the same for texts ("EBS volume").
	Kind, Title string
	// Keys are the paths of the properties that name a key, by its id or ARN or by the name
	// or ARN of an alias. A type without them cannot be found by its key: the schema of the
	// advanced query does not have the property, or not the type.
	Keys []string
	// Encrypted is the path of the property that is false where the resource is not
	// encrypted; "" where there is none.
	Encrypted string
}

// Types are the types that this package knows. Those with Keys are what the schema of the
// advanced query has (github.com/awslabs/aws-config-resource-schema, of which
// TestTypesAreInTheSchema checks each path); the others are named because people expect
// them. S3's buckets are left out: S3 itself is asked.
var Types = []Type{
	{"AWS::EC2::Volume", "ebs-volume", "EBS volume", []string{"configuration.kmsKeyId"}, "configuration.encrypted"},
	{"AWS::RDS::DBInstance", "rds-instance", "RDS DB instance", []string{"configuration.kmsKeyId", "configuration.performanceInsightsKMSKeyId"}, "configuration.storageEncrypted"},
	{"AWS::RDS::DBCluster", "rds-cluster", "RDS DB cluster", []string{"configuration.kmsKeyId", "configuration.performanceInsightsKMSKeyId", "configuration.activityStreamKmsKeyId"}, "configuration.storageEncrypted"},
	{"AWS::RDS::DBSnapshot", "rds-snapshot", "RDS DB snapshot", []string{"configuration.kmsKeyId"}, "configuration.encrypted"},
	{"AWS::RDS::DBClusterSnapshot", "rds-cluster-snapshot", "RDS DB cluster snapshot", []string{"configuration.kmsKeyId"}, "configuration.storageEncrypted"},
	{"AWS::Redshift::Cluster", "redshift-cluster", "Redshift cluster", []string{"configuration.kmsKeyId"}, "configuration.encrypted"},
	{"AWS::Redshift::ClusterSnapshot", "redshift-snapshot", "Redshift cluster snapshot", []string{"configuration.kmsKeyId"}, "configuration.encrypted"},
	{"AWS::CloudTrail::Trail", "cloudtrail-trail", "CloudTrail trail", []string{"configuration.kmsKeyId"}, ""},
	{"AWS::EFS::FileSystem", "efs-file-system", "EFS file system", []string{"configuration.KmsKeyId"}, "configuration.Encrypted"},
	{"AWS::DMS::ReplicationInstance", "dms-instance", "DMS replication instance", []string{"configuration.KmsKeyId"}, ""},
	{"AWS::KinesisVideo::Stream", "kinesis-video-stream", "Kinesis video stream", []string{"configuration.KmsKeyId"}, ""},
	{"AWS::SageMaker::NotebookInstance", "sagemaker-notebook", "SageMaker notebook instance", []string{"configuration.KmsKeyId"}, ""},
	{"AWS::SecretsManager::Secret", "secret", "Secrets Manager secret", []string{"configuration.KMSKeyId"}, ""},
	{"AWS::Lambda::Function", "lambda-function", "Lambda function", []string{"configuration.kmskeyArn"}, ""},
	{"AWS::DynamoDB::Table", "dynamodb-table", "DynamoDB table", []string{"configuration.ssedescription.kmsmasterKeyArn"}, ""},
	{"AWS::SNS::Topic", "sns-topic", "SNS topic", []string{"configuration.KmsMasterKeyId"}, ""},
	{"AWS::SQS::Queue", "sqs-queue", "SQS queue", []string{"configuration.KmsMasterKeyId"}, ""},
	{"AWS::EKS::Cluster", "eks-cluster", "EKS cluster", []string{"configuration.EncryptionConfig.Provider.KeyArn", "configuration.EncryptionConfigKeyArn"}, ""},
	{"AWS::OpenSearch::Domain", "opensearch-domain", "OpenSearch domain", []string{"configuration.EncryptionAtRestOptions.KmsKeyId"}, "configuration.EncryptionAtRestOptions.Enabled"},
	{"AWS::Elasticsearch::Domain", "elasticsearch-domain", "Elasticsearch domain", []string{"configuration.encryptionAtRestOptions.kmsKeyId"}, "configuration.encryptionAtRestOptions.enabled"},
	{"AWS::Backup::BackupVault", "backup-vault", "Backup vault", []string{"configuration.EncryptionKeyArn"}, ""},
	{"AWS::Backup::RecoveryPoint", "backup-recovery-point", "Backup recovery point", []string{"configuration.EncryptionKeyArn"}, "configuration.IsEncrypted"},
	{"AWS::Kinesis::Stream", "kinesis-stream", "Kinesis stream", []string{"configuration.StreamEncryption.KeyId"}, ""},
	{"AWS::MSK::Cluster", "msk-cluster", "MSK cluster", []string{"configuration.EncryptionInfo.EncryptionAtRest.DataVolumeKMSKeyId"}, ""},
	{"AWS::AmazonMQ::Broker", "mq-broker", "Amazon MQ broker", []string{"configuration.EncryptionOptions.KmsKeyId"}, ""},
	{"AWS::WorkSpaces::Workspace", "workspace", "WorkSpace", []string{"configuration.VolumeEncryptionKey"}, ""},
	{"AWS::S3Express::DirectoryBucket", "directory-bucket", "S3 directory bucket", []string{"configuration.BucketEncryption.ServerSideEncryptionConfiguration.ServerSideEncryptionByDefault.KMSMasterKeyID"}, ""},

	{"AWS::EC2::Snapshot", "ebs-snapshot", "EBS snapshot", nil, ""},
	{"AWS::ECR::Repository", "ecr-repository", "ECR repository", nil, ""},
	{"AWS::SSM::Parameter", "ssm-parameter", "SSM parameter", nil, ""},
	{"AWS::Logs::LogGroup", "log-group", "CloudWatch log group", nil, ""},
	{"AWS::FSx::FileSystem", "fsx-file-system", "FSx file system", nil, ""},
	{"AWS::ElastiCache::ReplicationGroup", "elasticache-group", "ElastiCache replication group", nil, ""},
}

// TypeOf returns the type of that name. Of one that this package does not know, its name
// stands for its kind and its title.
func TypeOf(name string) Type {
	for _, t := range Types {
		if t.Name == name {
			return t
		}
	}
	return Type{Name: name, Kind: name, Title: name}
}
