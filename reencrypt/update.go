package reencrypt

import (
	"context"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
)

// updateMethod moves with UpdateObjectEncryption, where a probe has proved it.
//
// The operation has no precondition: where a bucket has no versions, a writer who
// comes between HEAD and this call has the new object moved too, its bytes unharmed.
type updateMethod struct{}

// update is its only action.
const update action = "update"

func (updateMethod) traits() traits {
	return traits{
		name: MethodUpdate, does: "changes the key in place", operation: "UpdateObjectEncryption",
		probed: yes, checksums: no, tags: no, conditions: no,
	}
}

func (updateMethod) usable(ctx context.Context, e *Engine, to string) (string, error) {
	return e.probeUpdate(ctx, to)
}

func (updateMethod) readBucket(context.Context, *Engine, string, *facts) error { return nil }

func (updateMethod) decide(object, rules) decision { return decision{action: update} }

func (updateMethod) examine(context.Context, *mover, entry, *s3.HeadObjectOutput, *object) error {
	return nil
}

func (updateMethod) move(ctx context.Context, m *mover, en entry, h *s3.HeadObjectOutput, _ object, _ action) error {
	_, err := m.e.opt.S3.UpdateObjectEncryption(ctx, &s3.UpdateObjectEncryptionInput{
		Bucket: &m.Bucket, Key: &en.key, VersionId: optional(en.version), ExpectedBucketOwner: &m.e.opt.Account,
		ObjectEncryption: encryptionUnder(m.To, aws.ToBool(h.BucketKeyEnabled)),
	}, m.e.throttlesBack)
	return wrap("UpdateObjectEncryption", err)
}

func (updateMethod) judge(f settings) []Finding {
	all := judgeReplication(f, "A change of key is not replicated, and the replicas keep their keys.")
	if f.defaultLock {
		all = append(all, Finding{findingObjectLock, SeverityNote, "New objects get a retention by default. Objects under a retention or a hold are refused.", ""})
	}
	return all
}

// cost: UpdateObjectEncryption costs what a PUT into S3 Standard costs, whatever the
// object's storage class (User Guide, "Updating server-side encryption").
func (updateMethod) cost(g Group, _ classPrice, _ int64) (writes int64, usd float64) {
	return g.Versions, float64(g.Versions) * standardPrice.put
}

// encryptionUnder asks for SSE-KMS under a key, which has to be a full key ARN.
// Where the bucket key is not named S3 turns it off.
func encryptionUnder(keyARN string, bucketKey bool) types.ObjectEncryption {
	return &types.ObjectEncryptionMemberSSEKMS{Value: types.SSEKMSEncryption{KMSKeyArn: &keyARN, BucketKeyEnabled: &bucketKey}}
}
