// Command plainloop is what BenchmarkDrain holds the worker against: eight loops
// of the plain SDK that receive and delete in tens and do not look at what came.
package main

import (
	"context"
	"log"
	"os"
	"strconv"
	"sync"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"github.com/cmkeeper/cmkeeper/internal/awsclient"
)

const loops = 8

func main() {
	ctx := context.Background()
	queue := os.Getenv("CMKEEPER_EVENTS_QUEUE_URL")
	// The worker's client: without its shield the loop would wait out visibility
	// timeouts for the batches that it loses.
	cfg, err := awsclient.Load(ctx, loops)
	if err != nil {
		log.Fatal(err)
	}
	client := sqs.NewFromConfig(cfg)
	var running sync.WaitGroup
	for range loops {
		running.Go(func() {
			for {
				if err := turn(ctx, client, queue); err != nil {
					log.Fatal(err)
				}
			}
		})
	}
	running.Wait()
}

// turn receives once and deletes what came.
func turn(ctx context.Context, client *sqs.Client, queue string) error {
	out, err := client.ReceiveMessage(ctx, &sqs.ReceiveMessageInput{QueueUrl: &queue, MaxNumberOfMessages: 10, WaitTimeSeconds: 20})
	if err != nil || len(out.Messages) == 0 {
		return err
	}
	entries := make([]types.DeleteMessageBatchRequestEntry, len(out.Messages))
	for i, m := range out.Messages {
		entries[i] = types.DeleteMessageBatchRequestEntry{Id: aws.String(strconv.Itoa(i)), ReceiptHandle: m.ReceiptHandle}
	}
	_, err = client.DeleteMessageBatch(ctx, &sqs.DeleteMessageBatchInput{QueueUrl: &queue, Entries: entries})
	return err
}
