package reencrypt

import (
	"context"
	"fmt"
	"net/http"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"golang.org/x/sync/errgroup"

	"github.com/cmkeeper/cmkeeper/internal/localaws/inprocess"
)

// BenchmarkObjects compares a slice with a plain loop over the SDK (list, HEAD,
// update or copy) on the same server: objects per second that change their key.
func BenchmarkObjects(b *testing.B) {
	const objects = 1000
	for _, method := range []Method{MethodUpdate, MethodCopy} {
		for _, concurrency := range []int{1, 16, 64, 256} {
			for _, who := range []string{"plain", "slice"} {
				b.Run(fmt.Sprintf("%s/%d/%s", method, concurrency, who), func(b *testing.B) {
					w := newWorld(b)
					for i := range objects {
						w.put(fmt.Sprintf("p/%05d", i), w.a)
					}
					e := w.engine(func(o *Options) { o.Concurrency = concurrency })
					from, to := w.a, w.b
					if method == MethodUpdate {
						_, err := e.probeUpdate(b.Context(), w.b)
						w.must(err)
					}
					b.ResetTimer()
					for b.Loop() {
						if who == "plain" {
							w.must(w.plainLoop(method, to, concurrency))
						} else {
							m, err := e.newMover(b.Context(), spec{Bucket: bucket, From: []string{from}, To: to, Method: method, Versions: VersionsAll}, false, func(context.Context) error { return nil })
							w.must(err)
							t := &tally{}
							w.must(m.run(b.Context(), m.entries(b.Context(), "", ""), t))
							if t.counts.Moved != objects {
								b.Fatalf("moved %d objects", t.counts.Moved)
							}
						}
						from, to = to, from
					}
					b.ReportMetric(float64(objects*b.N)/b.Elapsed().Seconds(), "objects/s")
				})
			}
		}
	}
}

func (w *world) plainLoop(method Method, to string, concurrency int) error {
	client := w.client("worker")
	g, ctx := errgroup.WithContext(w.t.Context())
	g.SetLimit(concurrency)
	pages := s3.NewListObjectsV2Paginator(client, &s3.ListObjectsV2Input{Bucket: aws.String(bucket)})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return err
		}
		for _, o := range page.Contents {
			g.Go(func() error {
				h, err := client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: aws.String(bucket), Key: o.Key})
				switch {
				case err != nil || aws.ToString(h.SSEKMSKeyId) == to:
					return err
				case method == MethodUpdate:
					_, err = client.UpdateObjectEncryption(ctx, &s3.UpdateObjectEncryptionInput{
						Bucket: aws.String(bucket), Key: o.Key, ObjectEncryption: encryptionUnder(to, false),
					})
				default:
					_, err = client.CopyObject(ctx, &s3.CopyObjectInput{
						Bucket: aws.String(bucket), Key: o.Key, CopySource: aws.String(bucket + "/" + *o.Key),
						ServerSideEncryption: types.ServerSideEncryptionAwsKms, SSEKMSKeyId: &to,
					})
				}
				return err
			})
		}
	}
	return g.Wait()
}

// BenchmarkDataKeys compares a slice that moves data keys in metadata with a plain loop over
// the SDK that does the same and checks nothing (list, HEAD, ReEncrypt, copy with other
// metadata), and what looking for data keys takes where there are none.
func BenchmarkDataKeys(b *testing.B) {
	const objects, concurrency = 1000, 64
	for _, c := range []struct {
		who       string
		sealed    bool
		envelopes Envelopes
	}{
		{"sealed/plain", true, ""}, {"sealed/slice", true, EnvelopesMetadata},
		{"others/off", false, ""}, {"others/metadata", false, EnvelopesMetadata}, {"others/content", false, EnvelopesContent},
	} {
		b.Run(c.who, func(b *testing.B) {
			w := newWorld(b)
			for i := range objects {
				w.put(fmt.Sprintf("p/%05d", i), w.a, func(in *s3.PutObjectInput) {
					if c.sealed {
						in.Metadata = v2Metadata(w.keys(), w.a)
					}
				})
			}
			e := w.engine(func(o *Options) { o.Concurrency = concurrency })
			from, to := w.a, w.b
			_, err := e.probeUpdate(b.Context(), w.b)
			w.must(err)
			b.ResetTimer()
			for b.Loop() {
				if c.who == "sealed/plain" {
					w.must(w.plainRewrap(from, to, concurrency))
				} else {
					m, err := e.newMover(b.Context(), spec{Bucket: bucket, From: []string{from}, To: to, Method: MethodUpdate, Versions: VersionsAll, Envelopes: c.envelopes}, false, func(context.Context) error { return nil })
					w.must(err)
					t := &tally{}
					w.must(m.run(b.Context(), m.entries(b.Context(), "", ""), t))
					if t.counts.Moved != objects || (t.counts.Rewrapped[ReasonOnTarget] == objects) != c.sealed {
						b.Fatalf("moved %+v", t.counts)
					}
				}
				from, to = to, from
			}
			b.ReportMetric(float64(objects*b.N)/b.Elapsed().Seconds(), "objects/s")
		})
	}
}

func (w *world) plainRewrap(from, to string, concurrency int) error {
	client := w.client("worker")
	g, ctx := errgroup.WithContext(w.t.Context())
	g.SetLimit(concurrency)
	pages := s3.NewListObjectsV2Paginator(client, &s3.ListObjectsV2Input{Bucket: aws.String(bucket)})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return err
		}
		for _, o := range page.Contents {
			g.Go(func() error {
				h, err := client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: aws.String(bucket), Key: o.Key})
				if err != nil {
					return err
				}
				out, err := w.kms.ReEncrypt(ctx, &kms.ReEncryptInput{
					CiphertextBlob: unb64(h.Metadata["x-amz-key-v2"]), SourceKeyId: &from, DestinationKeyId: &to,
					SourceEncryptionContext: v2Context, DestinationEncryptionContext: v2Context,
				})
				if err != nil {
					return err
				}
				h.Metadata["x-amz-key-v2"] = b64(out.CiphertextBlob)
				_, err = client.CopyObject(ctx, &s3.CopyObjectInput{
					Bucket: aws.String(bucket), Key: o.Key, CopySource: aws.String(bucket + "/" + *o.Key), MetadataDirective: types.MetadataDirectiveReplace,
					Metadata: h.Metadata, ServerSideEncryption: types.ServerSideEncryptionAwsKms, SSEKMSKeyId: &to,
				})
				return err
			})
		}
	}
	return g.Wait()
}

// endless is an S3 that makes its objects up, so that what a benchmark measures
// is the engine's memory and not the server's.
type endless struct {
	objects int
	oldKey  string
}

func (s endless) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	switch {
	case r.Method == http.MethodHead:
		w.Header().Set("X-Amz-Server-Side-Encryption", "aws:kms")
		w.Header().Set("X-Amz-Server-Side-Encryption-Aws-Kms-Key-Id", s.oldKey)
		w.Header().Set("ETag", `"00"`)
		w.Header().Set("Content-Length", "100")
	case q.Has("versioning"):
		_, _ = fmt.Fprint(w, `<VersioningConfiguration/>`)
	case q.Has("list-type"):
		from, _ := strconv.Atoi(q.Get("continuation-token"))
		var page strings.Builder
		for i := from; i < min(from+1000, s.objects); i++ {
			fmt.Fprintf(&page, "<Contents><Key>prefix/object-%012d</Key><ETag>&quot;00&quot;</ETag><Size>100</Size></Contents>", i)
		}
		_, _ = fmt.Fprintf(w, `<ListBucketResult><EncodingType>url</EncodingType><IsTruncated>%t</IsTruncated><NextContinuationToken>%d</NextContinuationToken>%s</ListBucketResult>`,
			from+1000 < s.objects, from+1000, page.String())
	}
}

// BenchmarkMemory measures the largest heap in use while objects are moved by
// update, at the default concurrency. It should not grow with their number.
func BenchmarkMemory(b *testing.B) {
	for _, objects := range []int{10_000, 100_000} {
		b.Run(strconv.Itoa(objects), func(b *testing.B) {
			var peak uint64
			for b.Loop() {
				e := &Engine{
					opt: Options{
						S3: s3.NewFromConfig(inprocess.Config(endless{objects, oldKey}, "us-east-1", "worker"), func(o *s3.Options) {
							o.UsePathStyle = true
						}),
						Resolver: sameKey{}, Account: account, StateBucket: stateBucket, SliceSize: 2000,
					},
					slots: make(chan struct{}, 64), limiters: limiters{bound: 64}, rate: newThrottle(0, nil), probe: probe{turn: make(chan struct{}, 1), known: true},
					throttlesBack: throttlesBack(),
				}
				m, err := e.newMover(b.Context(), spec{Bucket: bucket, From: []string{oldKey}, To: newKey, Method: MethodUpdate}, false, func(context.Context) error { return nil })
				if err != nil {
					b.Fatal(err)
				}
				runtime.GC()
				done := make(chan struct{})
				var sampler errgroup.Group
				sampler.Go(func() error {
					tick := time.NewTicker(10 * time.Millisecond)
					defer tick.Stop()
					for {
						var now runtime.MemStats
						runtime.ReadMemStats(&now)
						peak = max(peak, now.HeapInuse)
						select {
						case <-tick.C:
						case <-done:
							return nil
						}
					}
				})
				t := &tally{}
				err = m.run(b.Context(), m.entries(b.Context(), "", ""), t)
				close(done)
				_ = sampler.Wait()
				if err != nil || int(t.counts.Moved) != objects {
					b.Fatal(t.counts, err)
				}
			}
			b.ReportMetric(float64(peak)/(1<<20), "peak-heap-MiB")
			b.ReportMetric(float64(objects*b.N)/b.Elapsed().Seconds(), "objects/s")
		})
	}
}

type sameKey struct{}

func (sameKey) Resolve(_ context.Context, key string) (string, error) { return key, nil }
