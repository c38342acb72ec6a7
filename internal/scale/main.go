// Command scale measures the resident memory, CPU time and speed of a worker that
// re-encrypts many objects, and of a plain loop over the SDK (list, HEAD, move) in a
// process of its own. Both use localaws in this process, without request limits.
//
//	go run ./internal/scale -binary bin/cmkeeper -objects 10000,1000000
//
// "make bench-scale" runs it; docs/performance.md has the figures.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"golang.org/x/sync/errgroup"

	"github.com/cmkeeper/cmkeeper/internal/awsclient"
	"github.com/cmkeeper/cmkeeper/internal/localaws"
	"github.com/cmkeeper/cmkeeper/internal/sandbox"
)

const bucket = "data"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("scale", flag.ContinueOnError)
	binary := flags.String("binary", "bin/cmkeeper", "the worker")
	sizes := flags.String("objects", "10000,1000000", "numbers of objects")
	pairs := flags.Int("pairs", 3, "runs of 20,000 objects, each followed by a plain loop, for each method")
	concurrency := flags.Int("concurrency", 64, "objects worked on at once")
	plain := flags.String("plain", "", "run the plain loop, and move to this key")
	method := flags.String("method", "update", "method of the plain loop: update or copy")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *plain != "" {
		return plainLoop(ctx, *plain, *method, *concurrency)
	}
	for size := range strings.SplitSeq(*sizes, ",") {
		n, err := strconv.Atoi(size)
		if err != nil {
			return fmt.Errorf("read -objects: %w", err)
		}
		m, err := measure(ctx, n, *binary, "", "update", *concurrency)
		if err != nil {
			return err
		}
		fmt.Printf("update, %8d objects: %s\n", n, m)
	}
	const objects = 20_000
	for _, method := range []string{"update", "copy"} {
		for range *pairs {
			ours, err := measure(ctx, objects, *binary, "", method, *concurrency)
			if err != nil {
				return err
			}
			plain, err := measure(ctx, objects, *binary, os.Args[0], method, *concurrency)
			if err != nil {
				return err
			}
			fmt.Printf("%s, worker beside plain loop: %.2f times its speed; %s; plain: %s\n", method, ours.perSecond/plain.perSecond, ours, plain)
		}
	}
	return nil
}

// measured is the cost of one process.
type measured struct {
	perSecond float64 // objects, from the first move to the last
	moving    float64 // CPU seconds per million objects until the last move
	cpu       float64 // the same, to the end
	memory    float64 // largest resident set, MiB
}

func (m measured) String() string {
	return fmt.Sprintf("%.0f objects/s, %.0f CPU seconds per million to move (%.0f in all), %.1f MiB resident", m.perSecond, m.moving, m.cpu, m.memory)
}

// measure has a worker, or a plain loop, move objects on a new server.
func measure(ctx context.Context, objects int, binary, plain, method string, concurrency int) (measured, error) {
	box, err := sandbox.Start(ctx, "127.0.0.1:0")
	if err != nil {
		return measured{}, err
	}
	defer box.Close()
	from, to, err := fill(ctx, box, objects)
	if err != nil {
		return measured{}, fmt.Errorf("fill bucket: %w", err)
	}
	environment := append(os.Environ(),
		"AWS_ENDPOINT_URL="+box.Endpoint, "AWS_REGION="+sandbox.Region, "AWS_ACCESS_KEY_ID="+sandbox.WorkerKey, "AWS_SECRET_ACCESS_KEY=x", "AWS_EC2_METADATA_DISABLED=true",
		"CMKEEPER_REENCRYPT_CONCURRENCY="+strconv.Itoa(concurrency), "CMKEEPER_REENCRYPT_METHOD="+method, "CMKEEPER_POOLS=jobs", "CMKEEPER_LOG_LEVEL=warn")
	for name, value := range box.WorkerEnvironment("*") {
		environment = append(environment, name+"="+value)
	}
	command := func(name string, args ...string) *exec.Cmd {
		c := exec.CommandContext(ctx, name, args...)
		c.Env, c.Stderr = environment, os.Stderr
		return c
	}
	process := command(binary, "worker")
	if plain != "" {
		process = command(plain, "-plain", to, "-method", method, "-concurrency", strconv.Itoa(concurrency))
	} else if out, err := command(binary, "reencrypt", "start", "--bucket", bucket, "--from", from, "--to", to, "--method", method).Output(); err != nil {
		return measured{}, fmt.Errorf("start job: %w: %s", err, out)
	}
	watch := newWatch(box.AWS, method, objects)
	defer watch.stop()
	if err := process.Start(); err != nil {
		return measured{}, err
	}
	ended := make(chan error, 1)
	go func() { ended <- process.Wait() }()
	select {
	case <-watch.done:
	case err := <-ended:
		return measured{}, errors.Join(errors.New("process ended before all objects were moved"), err)
	}
	moving, memory := cpuTime(process.Process.Pid), peakMemory(process.Process.Pid)
	if plain == "" {
		if err := complete(ctx, box); err != nil {
			return measured{}, err
		}
		memory = peakMemory(process.Process.Pid)
		if err := process.Process.Signal(syscall.SIGTERM); err != nil {
			return measured{}, err
		}
	}
	if err := <-ended; err != nil {
		return measured{}, err
	}
	state := process.ProcessState
	million := float64(objects) / 1e6
	return measured{
		perSecond: watch.rate(), moving: moving.Seconds() / million, memory: memory,
		cpu: (state.UserTime() + state.SystemTime()).Seconds() / million,
	}, nil
}

// fill creates two keys and a bucket of objects under the first.
func fill(ctx context.Context, box *sandbox.Sandbox, objects int) (from, to string, err error) {
	cfg := box.Config("operator")
	for _, arn := range []*string{&from, &to} {
		out, err := kms.NewFromConfig(cfg).CreateKey(ctx, &kms.CreateKeyInput{})
		if err != nil {
			return "", "", err
		}
		*arn = *out.KeyMetadata.Arn
	}
	if _, err := awsclient.S3(cfg, nil).CreateBucket(ctx, &s3.CreateBucketInput{Bucket: aws.String(bucket)}); err != nil {
		return "", "", err
	}
	// Without the SDK and the socket, because filling is not measured.
	var g errgroup.Group
	for part := range 2 {
		g.Go(func() error {
			for i := part; i < objects; i += 2 {
				r := httptest.NewRequestWithContext(ctx, http.MethodPut, fmt.Sprintf("/%s/2026/prefix-%04d/object-%012d", bucket, i/10_000, i), strings.NewReader("x"))
				r.Header.Set("Authorization", "Credential=operator/20260101/us-east-1/s3/aws4_request")
				r.Header.Set("X-Amz-Server-Side-Encryption", "aws:kms")
				r.Header.Set("X-Amz-Server-Side-Encryption-Aws-Kms-Key-Id", from)
				answer := httptest.NewRecorder()
				if box.AWS.ServeHTTP(answer, r); answer.Code != http.StatusOK {
					return fmt.Errorf("put object: %d %s", answer.Code, answer.Body)
				}
			}
			return nil
		})
	}
	return from, to, g.Wait()
}

// complete waits until no job is open.
func complete(ctx context.Context, box *sandbox.Sandbox) error {
	client := awsclient.S3(box.Config("operator"), nil)
	for {
		out, err := client.ListObjectsV2(ctx, &s3.ListObjectsV2Input{Bucket: aws.String(sandbox.StateBucket), Prefix: aws.String("cmkeeper/jobs/open/")})
		if err != nil || len(out.Contents) == 0 {
			return err
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// watch counts the moves at the server.
type watch struct {
	stop        func()
	done        chan struct{} // closed at the last move
	mu          sync.Mutex
	moves, all  int
	first, last time.Time
}

func newWatch(server *localaws.Server, method string, objects int) *watch {
	operation := "UpdateObjectEncryption"
	if method == "copy" {
		operation = "CopyObject"
	}
	w := &watch{done: make(chan struct{}), all: objects}
	w.stop = server.Observe(func(r localaws.Request) {
		if r.Operation != operation || !strings.HasPrefix(r.Path, "/"+bucket+"/") {
			return
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		w.last = time.Now()
		if w.moves++; w.moves == 1 {
			w.first = w.last
		}
		if w.moves == w.all {
			close(w.done)
		}
	})
	return w
}

func (w *watch) rate() float64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return float64(w.moves) / w.last.Sub(w.first).Seconds()
}

// cpuTime reads what a process has used so far; 0 where there is no /proc.
func cpuTime(pid int) time.Duration {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	const tick = 10 * time.Millisecond // USER_HZ is 100 on Linux
	ticks := 0
	for _, field := range fields[11:13] { // utime and stime
		n, _ := strconv.Atoi(field) // always numbers
		ticks += n
	}
	return time.Duration(ticks) * tick
}

// peakMemory reads the largest resident set that a process has had so far, in MiB;
// 0 where there is no /proc. (A child's rusage has that of the process which started
// it, this one, in it.)
func peakMemory(pid int) float64 {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	_, after, _ := strings.Cut(string(status), "VmHWM:")
	kib, _ := strconv.Atoi(strings.Fields(after + " 0")[0]) // always a number
	return float64(kib) / 1024
}

// plainLoop is the loop that one would write without cmkeeper.
func plainLoop(ctx context.Context, to, method string, concurrency int) error {
	cfg, err := awsclient.Load(ctx, concurrency)
	if err != nil {
		return err
	}
	client := awsclient.S3(cfg, nil)
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(concurrency)
	pages := s3.NewListObjectsV2Paginator(client, &s3.ListObjectsV2Input{Bucket: aws.String(bucket)})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return errors.Join(err, g.Wait())
		}
		for _, o := range page.Contents {
			g.Go(func() error {
				h, err := client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: aws.String(bucket), Key: o.Key})
				switch {
				case err != nil || aws.ToString(h.SSEKMSKeyId) == to:
					return err
				case method == "copy":
					_, err = client.CopyObject(ctx, &s3.CopyObjectInput{
						Bucket: aws.String(bucket), Key: o.Key, CopySource: aws.String(bucket + "/" + *o.Key),
						ServerSideEncryption: types.ServerSideEncryptionAwsKms, SSEKMSKeyId: &to,
					})
				default:
					_, err = client.UpdateObjectEncryption(ctx, &s3.UpdateObjectEncryptionInput{
						Bucket: aws.String(bucket), Key: o.Key,
						ObjectEncryption: &types.ObjectEncryptionMemberSSEKMS{Value: types.SSEKMSEncryption{KMSKeyArn: &to}},
					})
				}
				return err
			})
		}
	}
	return g.Wait()
}
