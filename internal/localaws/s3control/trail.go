package s3control

import (
	"encoding/json"
	"time"

	"github.com/cmkeeper/cmkeeper/internal/localaws/wire"
)

// envelope is EventBridge's form of a CloudTrail service event about a job, as
// the User Guide's example has it.
type envelope struct {
	Version    string   `json:"version"`
	ID         string   `json:"id"`
	DetailType string   `json:"detail-type"`
	Source     string   `json:"source"`
	Account    string   `json:"account"`
	Time       string   `json:"time"`
	Region     string   `json:"region"`
	Resources  []string `json:"resources"`
	Detail     record   `json:"detail"`
}

type record struct {
	EventVersion        string       `json:"eventVersion"`
	UserIdentity        identity     `json:"userIdentity"`
	EventTime           string       `json:"eventTime"`
	EventSource         string       `json:"eventSource"`
	EventName           string       `json:"eventName"`
	AWSRegion           string       `json:"awsRegion"`
	SourceIPAddress     string       `json:"sourceIPAddress"`
	UserAgent           string       `json:"userAgent"`
	RequestParameters   *struct{}    `json:"requestParameters"`
	ResponseElements    *struct{}    `json:"responseElements"`
	EventID             string       `json:"eventID"`
	ReadOnly            bool         `json:"readOnly"`
	EventType           string       `json:"eventType"`
	RecipientAccountID  string       `json:"recipientAccountId"`
	ServiceEventDetails eventDetails `json:"serviceEventDetails"`
}

type identity struct {
	AccountID string `json:"accountId"`
	InvokedBy string `json:"invokedBy"`
}

type eventDetails struct {
	JobID              string   `json:"jobId"`
	JobARN             string   `json:"jobArn"`
	Status             string   `json:"status"`
	JobEventID         string   `json:"jobEventId"`
	FailureCodes       []string `json:"failureCodes"`
	StatusChangeReason []string `json:"statusChangeReason"`
}

// publish puts an event about a job on the bus.
func (s *Service) publish(id, name, status string, codes []string, reason string) {
	const s3 = "s3.amazonaws.com"
	now := time.Now().UTC().Format(time.RFC3339)
	reasons := []string{}
	if reason != "" {
		reasons = append(reasons, reason)
	}
	event, _ := json.Marshal(envelope{ // strings and numbers always encode
		Version: "0", ID: wire.NewUUID(), DetailType: "AWS Service Event via CloudTrail", Source: "aws.s3",
		Account: s.cfg.Account, Time: now, Region: s.cfg.Region, Resources: []string{},
		Detail: record{
			EventVersion: "1.05", UserIdentity: identity{s.cfg.Account, s3}, EventTime: now, EventSource: s3, EventName: name,
			AWSRegion: s.cfg.Region, SourceIPAddress: s3, UserAgent: s3, EventID: wire.NewUUID(), EventType: "AwsServiceEvent",
			RecipientAccountID: s.cfg.Account,
			ServiceEventDetails: eventDetails{
				JobID: id, JobARN: s.arn(id), Status: status, JobEventID: wire.NewUUID(), FailureCodes: codes, StatusChangeReason: reasons,
			},
		},
	})
	s.cfg.Publish(event)
}
