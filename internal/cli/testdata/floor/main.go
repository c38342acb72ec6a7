// Command floor is the least that a worker with the same clients can be: it
// reads one variable, makes the four clients and polls the queue. It is what
// BenchmarkStart and BenchmarkIdle hold the product against.
package main

import (
	"context"
	"log"
	"os"

	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/sns"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/sethvargo/go-envconfig"
)

func main() {
	ctx := context.Background()
	var c struct {
		Queue string `env:"CMKEEPER_EVENTS_QUEUE_URL, required"`
	}
	if err := envconfig.Process(ctx, &c); err != nil {
		log.Fatal(err)
	}
	cfg, err := config.LoadDefaultConfig(ctx)
	if err != nil {
		log.Fatal(err)
	}
	queue := sqs.NewFromConfig(cfg)
	if len(os.Args) > 1 { // never: keeps what a worker calls in the binary
		_, _ = kms.NewFromConfig(cfg).DescribeKey(ctx, &kms.DescribeKeyInput{})
		_, _ = s3.NewFromConfig(cfg).HeadObject(ctx, &s3.HeadObjectInput{})
		_, _ = sns.NewFromConfig(cfg).Publish(ctx, &sns.PublishInput{})
	}
	for {
		if _, err := queue.ReceiveMessage(ctx, &sqs.ReceiveMessageInput{QueueUrl: &c.Queue, WaitTimeSeconds: 20}); err != nil {
			log.Fatal(err)
		}
	}
}
