package reencrypt

import (
	"context"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
)

// update moves an object version with UpdateObjectEncryption. The operation has
// no precondition: where a bucket has no versions, a writer who comes between
// HEAD and this call has the new object moved too, its bytes unharmed.
func (m *mover) update(ctx context.Context, key string, h *s3.HeadObjectOutput, version string) error {
	_, err := m.e.opt.S3.UpdateObjectEncryption(ctx, &s3.UpdateObjectEncryptionInput{
		Bucket: &m.Bucket, Key: &key, VersionId: optional(version), ExpectedBucketOwner: &m.e.opt.Account,
		ObjectEncryption: encryptionUnder(m.To, aws.ToBool(h.BucketKeyEnabled)),
	}, m.e.throttlesBack)
	return err
}

// encryptionUnder asks for SSE-KMS under a key, which has to be a full key ARN.
// Where the bucket key is not named S3 turns it off.
func encryptionUnder(keyARN string, bucketKey bool) types.ObjectEncryption {
	return &types.ObjectEncryptionMemberSSEKMS{Value: types.SSEKMSEncryption{KMSKeyArn: &keyARN, BucketKeyEnabled: &bucketKey}}
}
