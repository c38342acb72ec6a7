package worker_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"github.com/cmkeeper/cmkeeper/events"
	"github.com/cmkeeper/cmkeeper/internal/awsclient"
	"github.com/cmkeeper/cmkeeper/internal/localaws"
	"github.com/cmkeeper/cmkeeper/internal/localaws/inprocess"
	"github.com/cmkeeper/cmkeeper/outcome"
	"github.com/cmkeeper/cmkeeper/worker"
)

// benchPollers is how many receives run at once, in both contestants.
const benchPollers = 8

// BenchmarkWorker measures messages per second from a queue of localaws on
// loopback, in this process: "plain" is a bare SDK loop of eight pollers that
// receive and delete in tens and look at nothing; "pool" is the worker as it
// runs in production, with leases kept, parsing each event and choosing by it.
// Both use the shielded HTTP client: without it the plain loop would wait out
// visibility timeouts for the batches that it loses.
func BenchmarkWorker(b *testing.B) {
	b.Run("plain", func(b *testing.B) {
		client, queue := benchQueue(b)
		var left atomic.Int64
		left.Store(int64(b.N))
		var pollers sync.WaitGroup
		b.ResetTimer()
		for range benchPollers {
			pollers.Go(func() {
				for left.Load() > 0 {
					n, err := plainTurn(b.Context(), client, queue)
					if err != nil {
						b.Error(err)
						return
					}
					left.Add(int64(-n))
				}
			})
		}
		pollers.Wait()
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msgs/s")
	})

	b.Run("pool", func(b *testing.B) {
		client, queue := benchQueue(b)
		ctx, stop := context.WithCancel(b.Context())
		defer stop()
		var held atomic.Int64
		pool, err := worker.New(ctx, client, worker.HandlerFunc(benchHandle), worker.Options{
			QueueURL: queue, Concurrency: benchPollers * 10,
			InFlight: func(delta int) {
				if delta < 0 && held.Add(int64(delta)) == int64(-b.N) {
					stop() // the last message is deleted
				}
			},
		})
		if err != nil {
			b.Fatal(err)
		}
		b.ResetTimer()
		if err := pool.Run(ctx); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msgs/s")
	})
}

// plainTurn receives once and deletes what came.
func plainTurn(ctx context.Context, client *sqs.Client, queue string) (int, error) {
	out, err := client.ReceiveMessage(ctx, &sqs.ReceiveMessageInput{QueueUrl: &queue, MaxNumberOfMessages: 10})
	if err != nil || len(out.Messages) == 0 {
		return 0, err
	}
	entries := make([]types.DeleteMessageBatchRequestEntry, len(out.Messages))
	for i, m := range out.Messages {
		entries[i] = types.DeleteMessageBatchRequestEntry{Id: aws.String(strconv.Itoa(i)), ReceiptHandle: m.ReceiptHandle}
	}
	deleted, err := client.DeleteMessageBatch(ctx, &sqs.DeleteMessageBatchInput{QueueUrl: &queue, Entries: entries})
	if err != nil {
		return 0, err
	}
	return len(deleted.Successful), nil
}

// benchHandle parses the event and goes by what it says.
func benchHandle(_ context.Context, m worker.Message) error {
	e, err := events.Parse([]byte(m.Body))
	if err != nil {
		return outcome.Reject(err)
	}
	if e.Name != "DisableKeyRotation" || e.KeyARN == "" {
		return errors.New("not the event that was sent")
	}
	return nil
}

// benchQueue returns a client over loopback, as production has it, and a queue
// with b.N events.
func benchQueue(b *testing.B) (*sqs.Client, string) {
	b.Helper()
	event, err := os.ReadFile("../events/testdata/disable-key-rotation.json")
	if err != nil {
		b.Fatal(err)
	}
	var compact bytes.Buffer // as EventBridge sends it
	if err := json.Compact(&compact, event); err != nil {
		b.Fatal(err)
	}
	server := localaws.New(localaws.Options{})
	b.Cleanup(server.Close)
	listener := httptest.NewServer(server)
	b.Cleanup(listener.Close)

	direct := sqs.NewFromConfig(inprocess.Config(server, "us-east-1", "test"))
	queue := makeQueue(b, direct, "bench", nil)
	for sent := 0; sent < b.N; {
		entries := make([]types.SendMessageBatchRequestEntry, min(10, b.N-sent))
		for i := range entries {
			entries[i] = types.SendMessageBatchRequestEntry{Id: aws.String(strconv.Itoa(i)), MessageBody: aws.String(compact.String())}
		}
		if _, err := direct.SendMessageBatch(b.Context(), &sqs.SendMessageBatchInput{QueueUrl: &queue, Entries: entries}); err != nil {
			b.Fatal(err)
		}
		sent += len(entries)
	}

	cfg := inprocess.Config(nil, "us-east-1", "test")
	cfg.BaseEndpoint = &listener.URL
	cfg.HTTPClient = awsclient.Shield(awshttp.NewBuildableClient().WithTransportOptions(func(t *http.Transport) {
		t.MaxIdleConnsPerHost = 2 * benchPollers
	}))
	return sqs.NewFromConfig(cfg), queue
}
