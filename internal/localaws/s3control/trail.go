package s3control

import (
	"encoding/json"
	"time"

	"github.com/cmkeeper/cmkeeper/internal/localaws/trail"
	"github.com/cmkeeper/cmkeeper/internal/localaws/wire"
)

type eventDetails struct {
	JobID              string   `json:"jobId"`
	JobARN             string   `json:"jobArn"`
	Status             string   `json:"status"`
	JobEventID         string   `json:"jobEventId"`
	FailureCodes       []string `json:"failureCodes"`
	StatusChangeReason []string `json:"statusChangeReason"`
}

// publish puts a CloudTrail service event about a job on the bus, as the User
// Guide's example has it.
func (s *Service) publish(id, name, status string, codes []string, reason string) {
	const s3 = "s3.amazonaws.com"
	reasons := []string{}
	if reason != "" {
		reasons = append(reasons, reason)
	}
	details, _ := json.Marshal(eventDetails{ // strings always encode
		JobID: id, JobARN: s.arn(id), Status: status, JobEventID: wire.NewUUID(), FailureCodes: codes, StatusChangeReason: reasons,
	})
	s.cfg.Trail.Record(trail.Record{
		EventVersion: "1.05", EventTime: trail.Time(time.Now()), EventSource: s3, EventName: name, AWSRegion: s.cfg.Region,
		EventID: wire.NewUUID(), EventType: trail.ServiceEvent, RecipientAccountID: s.cfg.Account,
		UserIdentity:    trail.Identity{AccountID: s.cfg.Account, InvokedBy: s3},
		SourceIPAddress: s3, UserAgent: s3, ServiceEventDetails: details,
	})
	s.cfg.Trail.Flush()
}
