package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/aws/smithy-go"

	"github.com/cmkeeper/cmkeeper/internal/arn"
)

// rereadInterval is how often the queue's attributes are read again.
const rereadInterval = 5 * time.Minute

// queue is what a Pool knows about its queue.
type queue struct {
	name          string
	visibility    time.Duration
	retention     time.Duration
	deadLetterURL string
}

// readQueue reads the queue's attributes and those of its dead-letter queue.
// Its errors name the queue, the problem and the fix.
func readQueue(ctx context.Context, client SQS, url string) (*queue, error) {
	name := queueName(url)
	fail := func(err error, fix string) (*queue, error) {
		return nil, fmt.Errorf("check queue %s: %w (fix: %s)", name, err, fix)
	}
	if strings.HasSuffix(name, ".fifo") {
		return fail(errors.New("it is a FIFO queue"), "use a standard queue; FIFO queues cannot delay a single message")
	}
	attributes, err := readAttributes(ctx, client, url)
	if err != nil {
		return fail(err, advice(err))
	}
	q := &queue{name: name, visibility: seconds(attributes, types.QueueAttributeNameVisibilityTimeout), retention: seconds(attributes, types.QueueAttributeNameMessageRetentionPeriod)}
	if q.visibility == 0 {
		return fail(errors.New("its visibility timeout is 0, so no message can be leased"), "set VisibilityTimeout to 30 seconds or more")
	}

	redrive := attributes[string(types.QueueAttributeNameRedrivePolicy)]
	if redrive == "" {
		return fail(errors.New("it has no redrive policy, so a message that always fails would come back until it expires"),
			"create a dead-letter queue and set the queue's RedrivePolicy to it")
	}
	target, err := deadLetterTarget(redrive)
	if err != nil {
		return fail(err, "set RedrivePolicy to the ARN of an existing SQS queue")
	}
	dead, err := client.GetQueueUrl(ctx, &sqs.GetQueueUrlInput{
		QueueName: aws.String(target.Resource), QueueOwnerAWSAccountId: aws.String(target.Account),
	})
	if err != nil {
		return fail(fmt.Errorf("find its dead-letter queue %s: %w", target.Resource, err), advice(err))
	}
	q.deadLetterURL = aws.ToString(dead.QueueUrl)
	if _, err := readAttributes(ctx, client, q.deadLetterURL); err != nil {
		return fail(fmt.Errorf("read its dead-letter queue %s: %w", target.Resource, err), advice(err))
	}
	return q, nil
}

func readAttributes(ctx context.Context, client SQS, url string) (map[string]string, error) {
	out, err := client.GetQueueAttributes(ctx, &sqs.GetQueueAttributesInput{
		QueueUrl: aws.String(url),
		AttributeNames: []types.QueueAttributeName{
			types.QueueAttributeNameVisibilityTimeout,
			types.QueueAttributeNameMessageRetentionPeriod,
			types.QueueAttributeNameRedrivePolicy,
		},
	})
	if err != nil {
		return nil, fmt.Errorf("read its attributes: %w", err)
	}
	return out.Attributes, nil
}

// rereadQueue keeps what is known about the queue fresh until ctx is done. What
// cannot be read stays as it was.
func (p *Pool) rereadQueue(ctx context.Context) {
	var reading condition
	for {
		pause(ctx, rereadInterval)
		if ctx.Err() != nil {
			return
		}
		began := time.Now()
		q, err := readQueue(ctx, p.client, p.options.QueueURL)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			if reading.fails(err) {
				p.log.Warn("cannot use the queue's settings as they are now; going on with the former ones", "error", err)
			}
		default:
			if reading.works(began) {
				p.log.Info("the queue's settings can be used again")
			}
			p.queue.Store(q)
		}
	}
}

// queueName returns the last segment of a queue's URL.
func queueName(url string) string { return url[strings.LastIndex(url, "/")+1:] }

// seconds returns an attribute that is a number of seconds, 0 where it is none.
func seconds(attributes map[string]string, name types.QueueAttributeName) time.Duration {
	n, err := strconv.Atoi(attributes[string(name)])
	if err != nil {
		return 0
	}
	return time.Duration(n) * time.Second
}

// deadLetterTarget returns the queue that a RedrivePolicy names.
func deadLetterTarget(policy string) (arn.ARN, error) {
	var p struct {
		Target string `json:"deadLetterTargetArn"`
	}
	if err := json.Unmarshal([]byte(policy), &p); err != nil {
		return arn.ARN{}, fmt.Errorf("parse its redrive policy: %w", err)
	}
	target := arn.Parse(p.Target)
	if target.Service != "sqs" {
		return arn.ARN{}, fmt.Errorf("its redrive policy names no SQS queue: %q", p.Target)
	}
	return target, nil
}

// errorCode is the code that AWS gave an error; for errors on the way there,
// the same for all.
func errorCode(err error) string {
	var e smithy.APIError
	if errors.As(err, &e) {
		return e.ErrorCode()
	}
	return "unreachable"
}

// advice says what to do about an error of SQS, as far as its code tells.
func advice(err error) string {
	switch code := errorCode(err); {
	case code == "unreachable":
		return "check the network, the Region and AWS_ENDPOINT_URL"
	case strings.Contains(code, "NonExistentQueue") || strings.Contains(code, "QueueDoesNotExist"):
		return "create the queue, or correct its URL, account and Region"
	case strings.HasPrefix(code, "AccessDenied"):
		return "allow the worker's role sqs:GetQueueUrl, GetQueueAttributes, ReceiveMessage, ChangeMessageVisibility, DeleteMessage and SendMessage on the queue, and GetQueueUrl, GetQueueAttributes and SendMessage on its dead-letter queue"
	case strings.HasPrefix(strings.ToUpper(code), "KMS"):
		return "the key that encrypts the queue cannot be used: enable it and allow the worker's role kms:Decrypt and kms:GenerateDataKey, or use SSE-SQS"
	case code == "OverLimit":
		return "too many messages of the queue are in flight; settle them or wait for their visibility timeout"
	case strings.Contains(code, "Token") || strings.Contains(code, "Signature") || strings.Contains(code, "ClientId"):
		return "check the worker's AWS credentials and clock"
	default:
		return "see the error; it is tried again"
	}
}
