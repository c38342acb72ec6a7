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

// Queue is a queue as SQS describes it.
type Queue struct {
	// URL, Name and ARN name it.
	URL, Name, ARN string
	// Key is the KMS key that encrypts it, as it was set: an id, an ARN or an alias;
	// "" where none does.
	Key string
	// Messages is about how many messages in it could be received when it was read.
	Messages int
	// DeadLetter is its dead-letter queue; nil in one that is a dead-letter queue here.
	DeadLetter *Queue

	visibility, retention time.Duration
}

// CheckQueue reads a queue and its dead-letter queue, and checks that a Pool can work
// on it. It fails, naming the queue, the problem and the fix, when the queue does not
// exist or cannot be read, is a FIFO queue (SQS delays no single message there), leases
// no message, has no redrive policy, or names a dead-letter queue that does not exist
// or cannot be read.
func CheckQueue(ctx context.Context, client SQS, url string) (*Queue, error) {
	name := queueName(url)
	fail := func(err error, fix string) (*Queue, error) {
		return nil, fmt.Errorf("check queue %s: %w (fix: %s)", name, err, fix)
	}
	if strings.HasSuffix(name, ".fifo") {
		return fail(errors.New("it is a FIFO queue"), "use a standard queue; FIFO queues cannot delay a single message")
	}
	q, redrive, err := readQueue(ctx, client, url)
	if err != nil {
		return fail(err, advice(err))
	}
	if q.visibility == 0 {
		return fail(errors.New("its visibility timeout is 0, so no message can be leased"), "set VisibilityTimeout to 30 seconds or more")
	}
	if redrive == "" {
		return fail(errors.New("it has no redrive policy, so a message that always fails would come back until it expires"),
			"create a dead-letter queue and set the queue's RedrivePolicy to it")
	}
	target, err := deadLetterTarget(redrive)
	if err != nil {
		return fail(err, "set RedrivePolicy to the ARN of an existing SQS queue")
	}
	if q.DeadLetter, err = ReadDeadLetters(ctx, client, url, target); err != nil {
		return fail(err, advice(err))
	}
	return q, nil
}

// ReadDeadLetters reads a dead-letter queue of the queue with the URL: its redrive policy's,
// or another one. Its own URL is mostly like that one, which saves a request that every
// start would wait for; the ARN that it answers with says whether it is the right one, and
// else SQS is asked.
func ReadDeadLetters(ctx context.Context, client SQS, url string, target arn.ARN) (*Queue, error) {
	if likely := neighbour(url, target); likely != "" {
		if q, _, err := readQueue(ctx, client, likely); err == nil && arn.Parse(q.ARN) == target {
			return q, nil
		}
	}
	out, err := client.GetQueueUrl(ctx, &sqs.GetQueueUrlInput{
		QueueName: aws.String(target.Resource), QueueOwnerAWSAccountId: aws.String(target.Account),
	})
	if err != nil {
		return nil, fmt.Errorf("find its dead-letter queue %s: %w", target.Resource, err)
	}
	q, _, err := readQueue(ctx, client, aws.ToString(out.QueueUrl))
	if err != nil {
		return nil, fmt.Errorf("read its dead-letter queue %s: %w", target.Resource, err)
	}
	return q, nil
}

// Policy returns what reads the policy of a queue, "" for none.
func Policy(client SQS, url string) func(context.Context) (string, error) {
	return func(ctx context.Context) (string, error) {
		out, err := client.GetQueueAttributes(ctx, &sqs.GetQueueAttributesInput{
			QueueUrl: aws.String(url), AttributeNames: []types.QueueAttributeName{types.QueueAttributeNamePolicy},
		})
		if err != nil {
			return "", fmt.Errorf("read the policy of queue %s: %w", queueName(url), err)
		}
		return out.Attributes[string(types.QueueAttributeNamePolicy)], nil
	}
}

// neighbour returns the URL that a queue with the ARN has where its URL is built like
// that of the queue with the given one, …/ACCOUNT/NAME; "" where that is not of this form.
func neighbour(url string, target arn.ARN) string {
	account := url[:max(strings.LastIndexByte(url, '/'), 0)]
	host, id := account[:strings.LastIndexByte(account, '/')+1], queueName(account)
	if len(id) != 12 || strings.Trim(id, "0123456789") != "" {
		return ""
	}
	return host + target.Account + "/" + target.Resource
}

// readQueue reads one queue, and its redrive policy.
func readQueue(ctx context.Context, client SQS, url string) (q *Queue, redrive string, err error) {
	out, err := client.GetQueueAttributes(ctx, &sqs.GetQueueAttributesInput{
		QueueUrl: aws.String(url),
		AttributeNames: []types.QueueAttributeName{
			types.QueueAttributeNameQueueArn,
			types.QueueAttributeNameKmsMasterKeyId,
			types.QueueAttributeNameVisibilityTimeout,
			types.QueueAttributeNameMessageRetentionPeriod,
			types.QueueAttributeNameRedrivePolicy,
			types.QueueAttributeNameApproximateNumberOfMessages,
		},
	})
	if err != nil {
		return nil, "", fmt.Errorf("read its attributes: %w", err)
	}
	text := func(name types.QueueAttributeName) string { return out.Attributes[string(name)] }
	messages, _ := strconv.Atoi(text(types.QueueAttributeNameApproximateNumberOfMessages)) // always there
	return &Queue{
		URL: url, Name: queueName(url), Messages: messages, ARN: text(types.QueueAttributeNameQueueArn), Key: text(types.QueueAttributeNameKmsMasterKeyId),
		visibility: seconds(text(types.QueueAttributeNameVisibilityTimeout)),
		retention:  seconds(text(types.QueueAttributeNameMessageRetentionPeriod)),
	}, text(types.QueueAttributeNameRedrivePolicy), nil
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
		q, err := CheckQueue(ctx, p.client, p.options.QueueURL)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			if reading.failed(err) {
				p.log.Warn("cannot use the settings that the queue has now; the former ones stay in use", "error", err)
			}
		default:
			if reading.succeeded(began) {
				p.log.Info("the queue's settings can be used again")
			}
			p.queue.Store(q)
		}
	}
}

// queueName returns the last segment of a queue's URL.
func queueName(url string) string { return url[strings.LastIndex(url, "/")+1:] }

// seconds returns a number of seconds, 0 where the text is none.
func seconds(text string) time.Duration {
	n, err := strconv.Atoi(text)
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
		return "too many messages of the queue are in flight; delete them or wait for their visibility timeout"
	case strings.Contains(code, "Token") || strings.Contains(code, "Signature") || strings.Contains(code, "ClientId"):
		return "check the worker's AWS credentials and clock"
	default:
		return "see the error; it is tried again"
	}
}
