package s3

import (
	"encoding/json"

	"github.com/cmkeeper/cmkeeper/internal/localaws/trail"
	"github.com/cmkeeper/cmkeeper/internal/localaws/wire"
)

// changeParameters is what CloudTrail tells of a change of a bucket. S3 spells the names
// as its XML and its headers do.
type changeParameters struct {
	BucketName    string                `trail:"bucketName"`
	Host          string                `trail:"Host"`
	Encryption    *string               `trail:"encryption"` // of the query: always empty
	Configuration *encryptionParameters `trail:"ServerSideEncryptionConfiguration"`
	Policy        *string               `trail:"policy"` // of the query: always empty
	BucketPolicy  json.RawMessage       `trail:"bucketPolicy"`
}

type encryptionParameters struct {
	Namespace string         `trail:"xmlns"`
	Rule      ruleParameters `trail:"Rule"`
}

type ruleParameters struct {
	Default          *defaultParameters `trail:"ApplyServerSideEncryptionByDefault"`
	BucketKeyEnabled bool               `trail:"BucketKeyEnabled"`
}

type defaultParameters struct {
	Algorithm string `trail:"SSEAlgorithm"`
	KeyID     string `trail:"KMSMasterKeyID"`
}

// record tells CloudTrail of a change of a bucket.
func (s *Service) record(c *call, err error) {
	c.params.BucketName, c.params.Host = c.name, c.name+".s3."+s.cfg.Region+".amazonaws.com"
	for name, member := range map[string]**string{"encryption": &c.params.Encryption, "policy": &c.params.Policy} {
		if c.query.Has(name) {
			*member = new("")
		}
	}
	s.cfg.Trail.Call(trail.Call{
		Service: "s3", Operation: c.operation, Caller: c.caller, RequestID: wire.RequestIDFrom(c.r.Context()),
		Parameters: c.params, Err: err,
		Resources: []trail.Resource{{AccountID: s.cfg.Account, Type: "AWS::S3::Bucket", ARN: bucketARN(c.name)}},
	})
	s.cfg.Trail.Flush()
}
