package sqs

import (
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cmkeeper/cmkeeper/internal/localaws/iam"
	"github.com/cmkeeper/cmkeeper/internal/localaws/wire"
)

// settings is what a queue's attributes mean.
type settings struct {
	visibility, delay, wait, retention time.Duration
	maxSize                            int
	redrive                            *redrivePolicy
	allow                              redriveAllowPolicy
	policy                             *iam.Policy // nil where none is set
	keyID                              string      // of KMS; "" where the queue has no key of it
}

type redrivePolicy struct {
	TargetARN       string
	MaxReceiveCount int
}

type redriveAllowPolicy struct {
	RedrivePermission string   `json:"redrivePermission"`
	SourceQueueARNs   []string `json:"sourceQueueArns"`
}

// allows reports whether the queue with the ARN may use the queue as its dead-letter queue.
func (p redriveAllowPolicy) allows(arn string) bool {
	switch p.RedrivePermission {
	case "denyAll":
		return false
	case "byQueue":
		return slices.Contains(p.SourceQueueARNs, arn)
	default:
		return true
	}
}

// defaults are the attributes of a queue that was created with none.
var defaults = map[string]string{
	"DelaySeconds":                  "0",
	"MaximumMessageSize":            strconv.Itoa(maxRequestSize),
	"MessageRetentionPeriod":        "345600",
	"ReceiveMessageWaitTimeSeconds": "0",
	"SqsManagedSseEnabled":          "true",
	"VisibilityTimeout":             "30",
}

// merge returns the attributes with the changes made, where an empty value
// removes an attribute (and so gives it its default back).
func merge(attributes, changes map[string]string) map[string]string {
	merged := maps.Clone(attributes)
	for name, value := range changes {
		if value != "" {
			merged[name] = value
		} else if d, ok := defaults[name]; ok {
			merged[name] = d
		} else {
			delete(merged, name)
		}
	}
	if merged["KmsMasterKeyId"] != "" && changes["SqsManagedSseEnabled"] == "" {
		merged["SqsManagedSseEnabled"] = "false"
	}
	return merged
}

// parseSettings checks attributes as SetQueueAttributes does.
func parseSettings(attributes map[string]string) (settings, *wire.Error) {
	var s settings
	for name, value := range attributes {
		var err *wire.Error
		switch name {
		case "VisibilityTimeout":
			s.visibility, err = seconds(name, value, 0, 43200)
		case "DelaySeconds":
			s.delay, err = seconds(name, value, 0, 900)
		case "ReceiveMessageWaitTimeSeconds":
			s.wait, err = seconds(name, value, 0, 20)
		case "MessageRetentionPeriod":
			s.retention, err = seconds(name, value, 60, 1209600)
		case "KmsDataKeyReusePeriodSeconds":
			_, err = seconds(name, value, 60, 86400)
		case "MaximumMessageSize":
			n, convErr := strconv.Atoi(value)
			if convErr != nil || n < 1024 || n > maxRequestSize {
				err = badAttribute(name, value)
			}
			s.maxSize = n
		case "RedrivePolicy":
			s.redrive, err = parseRedrive(value)
		case "RedriveAllowPolicy":
			if json.Unmarshal([]byte(value), &s.allow) != nil ||
				!slices.Contains([]string{"allowAll", "denyAll", "byQueue"}, s.allow.RedrivePermission) ||
				len(s.allow.SourceQueueARNs) > 10 {
				err = badAttribute(name, value)
			}
		case "SqsManagedSseEnabled":
			if value != "true" && value != "false" {
				err = badAttribute(name, value)
			}
		case "KmsMasterKeyId":
			s.keyID = value
		case "Policy":
			var parseErr error
			if s.policy, parseErr = iam.Parse([]byte(value)); parseErr != nil {
				err = badAttribute(name, value)
			}
		case "FifoQueue", "ContentBasedDeduplication", "DeduplicationScope", "FifoThroughputLimit":
			err = errorf("UnsupportedOperation", "localaws does not model FIFO queues")
		default:
			err = errorf("InvalidAttributeName", "Unknown Attribute %s.", name)
		}
		if err != nil {
			return settings{}, err
		}
	}
	return s, nil
}

func seconds(name, value string, low, high int) (time.Duration, *wire.Error) {
	n, err := strconv.Atoi(value)
	if err != nil || n < low || n > high {
		return 0, badAttribute(name, value)
	}
	return time.Duration(n) * time.Second, nil
}

func badAttribute(name, value string) *wire.Error {
	return errorf("InvalidAttributeValue", "Invalid value for the parameter %s: %s", name, value)
}

func parseRedrive(value string) (*redrivePolicy, *wire.Error) {
	var doc struct {
		DeadLetterTargetARN string          `json:"deadLetterTargetArn"`
		MaxReceiveCount     json.RawMessage `json:"maxReceiveCount"` // a number, or a string that holds one
	}
	if json.Unmarshal([]byte(value), &doc) != nil || doc.DeadLetterTargetARN == "" {
		return nil, invalidValue(value, "RedrivePolicy", "Redrive policy is not a valid JSON map with a deadLetterTargetArn.")
	}
	count := 10
	if len(doc.MaxReceiveCount) > 0 {
		var err error
		count, err = strconv.Atoi(strings.Trim(string(doc.MaxReceiveCount), `"`))
		if err != nil || count < 1 || count > 1000 {
			return nil, invalidValue(value, "RedrivePolicy", "Invalid value for maxReceiveCount: must be an Integer from 1 to 1000.")
		}
	}
	return &redrivePolicy{TargetARN: doc.DeadLetterTargetARN, MaxReceiveCount: count}, nil
}
