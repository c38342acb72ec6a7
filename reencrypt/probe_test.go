package reencrypt

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"
)

// brokenUpdate is an S3 client whose server does something else on
// UpdateObjectEncryption.
type brokenUpdate struct {
	*s3.Client
	update func(context.Context, *s3.UpdateObjectEncryptionInput) error
}

func (c *brokenUpdate) UpdateObjectEncryption(ctx context.Context, in *s3.UpdateObjectEncryptionInput, _ ...func(*s3.Options)) (*s3.UpdateObjectEncryptionOutput, error) {
	return &s3.UpdateObjectEncryptionOutput{}, c.update(ctx, in)
}

// answer is an error as the SDK makes it of an answer.
func answer(status int, code string) error {
	return &smithyhttp.ResponseError{
		Response: &smithyhttp.Response{Response: &http.Response{StatusCode: status}},
		Err:      &smithy.GenericAPIError{Code: code, Message: "as the test wants it"},
	}
}

func TestProbe(t *testing.T) {
	put := func(c *s3.Client, change func(*s3.PutObjectInput)) func(context.Context, *s3.UpdateObjectEncryptionInput) error {
		return func(ctx context.Context, in *s3.UpdateObjectEncryptionInput) error {
			to := in.ObjectEncryption.(*types.ObjectEncryptionMemberSSEKMS).Value.KMSKeyArn
			p := &s3.PutObjectInput{Bucket: in.Bucket, Key: in.Key, ServerSideEncryption: types.ServerSideEncryptionAwsKms, SSEKMSKeyId: to, BucketKeyEnabled: aws.Bool(true)}
			change(p)
			_, err := c.PutObject(ctx, p)
			return err
		}
	}
	for name, c := range map[string]struct {
		update    func(*world) func(context.Context, *s3.UpdateObjectEncryptionInput) error
		versioned bool
		unsafe    string // part of the reason; "" is safe
		err       bool
	}{
		"a server that has it":           {},
		"a server that has it, versions": {versioned: true},
		"a server that overwrites the object": {
			update: func(w *world) func(context.Context, *s3.UpdateObjectEncryptionInput) error {
				return put(w.s3, func(p *s3.PutObjectInput) { p.Body = strings.NewReader("<ObjectEncryption/>") })
			},
			unsafe: "overwrites",
		},
		"the same, with versions": {
			update: func(w *world) func(context.Context, *s3.UpdateObjectEncryptionInput) error {
				return put(w.s3, func(p *s3.PutObjectInput) { p.Body = strings.NewReader("<ObjectEncryption/>") })
			},
			versioned: true, unsafe: "overwrites",
		},
		"a server that does nothing": {
			update: func(*world) func(context.Context, *s3.UpdateObjectEncryptionInput) error {
				return func(context.Context, *s3.UpdateObjectEncryptionInput) error { return nil }
			},
			unsafe: "does not change the key",
		},
		"a server that drops the tags": {
			update: func(w *world) func(context.Context, *s3.UpdateObjectEncryptionInput) error {
				return func(ctx context.Context, in *s3.UpdateObjectEncryptionInput) error {
					if _, err := w.s3.UpdateObjectEncryption(ctx, in); err != nil {
						return err
					}
					_, err := w.s3.DeleteObjectTagging(ctx, &s3.DeleteObjectTaggingInput{Bucket: in.Bucket, Key: in.Key})
					return err
				}
			},
			unsafe: "tags",
		},
		"a server without it": {
			update: func(*world) func(context.Context, *s3.UpdateObjectEncryptionInput) error {
				return func(context.Context, *s3.UpdateObjectEncryptionInput) error { return answer(501, "NotImplemented") }
			},
			unsafe: "does not have it",
		},
		"a server that denies it": {
			update: func(*world) func(context.Context, *s3.UpdateObjectEncryptionInput) error {
				return func(context.Context, *s3.UpdateObjectEncryptionInput) error { return answer(403, "AccessDenied") }
			},
			err: true,
		},
		"a server that is ill": {
			update: func(*world) func(context.Context, *s3.UpdateObjectEncryptionInput) error {
				return func(context.Context, *s3.UpdateObjectEncryptionInput) error { return answer(500, "InternalError") }
			},
			err: true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			if c.versioned {
				_, err := w.s3.PutBucketVersioning(t.Context(), &s3.PutBucketVersioningInput{
					Bucket: aws.String(stateBucket), VersioningConfiguration: &types.VersioningConfiguration{Status: types.BucketVersioningStatusEnabled},
				})
				w.must(err)
			}
			e := w.engine(func(o *Options) {
				if c.update != nil {
					o.S3 = &brokenUpdate{w.s3, c.update(w)}
				}
			})
			var wg sync.WaitGroup
			for range 5 {
				wg.Go(func() {
					unsafe, err := e.probeUpdate(t.Context(), w.b)
					if (err != nil) != c.err || (unsafe != "") != (c.unsafe != "") || !strings.Contains(unsafe, c.unsafe) {
						t.Errorf("unsafe %q, error %v", unsafe, err)
					}
				})
			}
			wg.Wait()
			if n := w.aws.Requests("s3", "GetObjectTagging"); !c.err && n > 1 {
				t.Errorf("probed %d times", n)
			}
			out, err := w.s3.ListObjectVersions(t.Context(), &s3.ListObjectVersionsInput{Bucket: aws.String(stateBucket)})
			w.must(err)
			if len(out.Versions)+len(out.DeleteMarkers) > 0 {
				t.Errorf("%d versions and %d delete markers are left", len(out.Versions), len(out.DeleteMarkers))
			}
		})
	}
}

func TestUnsafeUpdateIsNeverUsed(t *testing.T) {
	w := newWorld(t)
	w.put("k", w.a)
	overwrite := func(o *Options) {
		o.S3 = &brokenUpdate{w.s3, func(ctx context.Context, in *s3.UpdateObjectEncryptionInput) error {
			if *in.Bucket != stateBucket {
				return errors.New("called on the user's data")
			}
			_, err := w.s3.PutObject(ctx, &s3.PutObjectInput{Bucket: in.Bucket, Key: in.Key, Body: strings.NewReader("<xml/>")})
			return err
		}}
	}
	run := RunOptions{Bucket: bucket, From: []string{w.a}, To: w.b, Method: MethodUpdate}
	if s, err := w.engine(overwrite).Run(t.Context(), run, nil); err == nil || s.State != StateStopped || s.Moved != 0 {
		t.Errorf("by update: %+v, %v", s, err)
	}
	run.Method = MethodAuto
	if s, err := w.engine(overwrite).Run(t.Context(), run, nil); err != nil || s.Moved != 1 || len(s.Notes) == 0 {
		t.Errorf("by auto: %+v, %v", s, err)
	}
	run.From, run.To = []string{w.b}, w.a
	noState := func(o *Options) { o.Store, o.StateBucket = nil, "" }
	if s, err := w.engine(noState).Run(t.Context(), run, nil); err == nil || s.Moved != 0 {
		t.Errorf("without a state bucket to probe in: %+v, %v", s, err)
	}
}
