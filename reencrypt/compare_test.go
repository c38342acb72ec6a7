package reencrypt

import (
	"context"
	"fmt"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
)

func TestCopiesAreComparedUntilTheirKindIsProven(t *testing.T) {
	plain := goal{HeadObjectOutput: &s3.HeadObjectOutput{ContentLength: aws.Int64(1), ETag: aws.String("a")}}
	tagged := goal{HeadObjectOutput: &s3.HeadObjectOutput{ContentLength: aws.Int64(1), TagCount: aws.Int32(1)}}
	odd := goal{HeadObjectOutput: &s3.HeadObjectOutput{ContentLength: aws.Int64(1), MissingMeta: aws.Int32(1)}}
	k := kindOf("b", entry{key: "k1"}, plain, grants{})
	if k != kindOf("b", entry{key: "k2"}, goal{HeadObjectOutput: &s3.HeadObjectOutput{ContentLength: aws.Int64(2), ETag: aws.String("b")}}, grants{}) {
		t.Error("size and name make another kind")
	}
	for name, other := range map[string]kind{
		"bucket": kindOf("c", entry{}, plain, grants{}), "tags": kindOf("b", entry{}, tagged, grants{}),
		"checksum": kindOf("b", entry{checksum: "SHA256"}, plain, grants{}), "acl": kindOf("b", entry{}, plain, grants{read: aws.String("x")}),
	} {
		if k == other {
			t.Errorf("%s makes no other kind", name)
		}
	}
	var tr copyAudit
	compare := func(k kind, n int) (compared int) {
		for range n {
			if tr.due(k) {
				compared++
				tr.same(k)
			}
		}
		return compared
	}
	if n := compare(k, 10*sampledCopies); n < provenCopies+9 || n > provenCopies+10 {
		t.Errorf("%d of %d copies were compared", n, 10*sampledCopies)
	}
	if n := compare(kindOf("b", entry{}, tagged, grants{}), provenCopies); n != provenCopies {
		t.Errorf("%d of the first %d copies of another kind were compared", n, provenCopies)
	}
	if n := compare(kindOf("b", entry{}, odd, grants{}), 1000); n != 1000 {
		t.Errorf("%d of 1000 copies with hidden metadata were compared", n)
	}
	tr.differs()
	if n := compare(k, 1000); n != 1000 {
		t.Errorf("%d of 1000 copies were compared after one had been different", n)
	}
	tr = copyAudit{}
	for i := range 2 * maxKinds {
		compare(kindOf(fmt.Sprint(i), entry{}, plain, grants{}), 1)
	}
	if len(tr.copies) != maxKinds {
		t.Errorf("%d kinds are remembered", len(tr.copies))
	}
}

// nameless answers a copy without the key, as MinIO does.
type nameless struct{ S3 }

func (n nameless) CopyObject(ctx context.Context, in *s3.CopyObjectInput, o ...func(*s3.Options)) (*s3.CopyObjectOutput, error) {
	out, err := n.S3.CopyObject(ctx, in, o...)
	if err == nil {
		out.SSEKMSKeyId, out.BucketKeyEnabled, out.ServerSideEncryption = nil, nil, ""
	}
	return out, err
}

// TestCopyUnderAnotherKey: a server that copies under a key of its own choice is
// found out, whether its answer names the key or not.
func TestCopyUnderAnotherKey(t *testing.T) {
	for name, server := range map[string]func(S3) S3{"named": func(s S3) S3 { return s }, "not named": func(s S3) S3 { return nameless{s} }} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.put("k", w.a)
			e := w.engine(func(o *Options) { o.S3 = server(otherKeyed{o.S3, w.other}) })
			s, err := e.Run(t.Context(), RunOptions{Bucket: bucket, From: []string{w.a}, To: w.b, Method: MethodCopy}, nil)
			if s.Moved != 0 || s.ByReason[ReasonDiffers] != 1 {
				t.Errorf("%+v, %v", s.Counts, err)
			}
		})
	}
}

// otherKeyed copies under another key than it is asked to.
type otherKeyed struct {
	S3
	key string
}

func (o otherKeyed) CopyObject(ctx context.Context, in *s3.CopyObjectInput, f ...func(*s3.Options)) (*s3.CopyObjectOutput, error) {
	in.SSEKMSKeyId = &o.key
	return o.S3.CopyObject(ctx, in, f...)
}

// TestRequestsPerObject counts at the server what moving an object takes, in the
// pass that moves it and in the one that proves it.
func TestRequestsPerObject(t *testing.T) {
	const objects = 2000
	for _, c := range []struct {
		name   string
		method Method
		move   string
		server func(S3) S3
	}{
		{"update", MethodUpdate, "UpdateObjectEncryption", func(s S3) S3 { return s }},
		{"copy", MethodCopy, "CopyObject", func(s S3) S3 { return s }},
		{"copy by a server that names no key", MethodCopy, "CopyObject", func(s S3) S3 { return nameless{s} }},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			w.putMany("p/", objects)
			e := w.engine(func(o *Options) { o.SliceSize, o.S3 = 0, c.server(o.S3) })
			run := func(dry bool) (requests map[string]int) {
				before := w.dataRequests()
				s, err := e.Run(t.Context(), RunOptions{Bucket: bucket, From: []string{w.a}, To: w.b, Method: c.method, DryRun: dry}, nil)
				w.must(err)
				if s.Scanned != objects || !dry && s.Moved != objects {
					t.Fatalf("%+v", s.Counts)
				}
				requests = w.dataRequests()
				for operation := range requests {
					requests[operation] -= before[operation]
				}
				return requests
			}
			both := run(false)
			proof := run(true) // a dry run is what the verifying pass does
			first, second := 0, 0
			for operation := range both {
				first += both[operation] - proof[operation]
				second += proof[operation]
			}
			each := func(n int) float64 { return float64(n) / objects }
			t.Logf("%.4f requests per object in the pass that moves, %.4f in the one that proves: %v", each(first), each(second), both)
			// Copies are compared until their kind is proven: as many as are under way then.
			if each(first) > 2.02 || each(second) > 1.01 || both[c.move] < objects {
				t.Errorf("%.4f requests per object in the pass that moves, %.4f in the one that proves: %v", each(first), each(second), both)
			}
		})
	}
}

// dataRequests returns the requests so far of the kinds that moving makes.
func (w *world) dataRequests() map[string]int {
	requests := map[string]int{}
	for _, operation := range []string{
		"ListObjectsV2", "ListObjectVersions", "HeadObject", "UpdateObjectEncryption", "CopyObject",
		"GetObject", "GetObjectAcl", "GetObjectTagging", "GetBucketVersioning",
	} {
		requests[operation] = w.aws.Requests("s3", operation)
	}
	return requests
}
