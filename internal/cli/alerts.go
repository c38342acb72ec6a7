package cli

import (
	"fmt"
	"slices"
	"strings"

	"github.com/cmkeeper/cmkeeper/alert"
)

// topics are those that get every alert, the first one first. What it reads was checked.
func (c Config) topics() []alert.Topic {
	topics, _ := parseTopics(c.AlertTopicARN, c.AlertFormats)
	return topics
}

// grouping is how alerts are told together, nil where each is told at once: also for
// whoever handles only jobs, whose alerts stand alone.
func (c Config) grouping(queues alert.SQS) *alert.Grouping {
	if c.AlertGroupInterval == 0 || !c.runsEvents() {
		return nil
	}
	return &alert.Grouping{SQS: queues, QueueURL: c.EventsQueueURL, Wait: c.AlertGroupWait, Interval: c.AlertGroupInterval}
}

// parseTopics returns the first topic, if there is one, and those of ALERT_FORMATS:
// arn:aws:sns:…=chat,arn:aws:sns:…=text.
func parseTopics(first, formats string) ([]alert.Topic, error) {
	var topics []alert.Topic
	if first != "" {
		topics = append(topics, alert.Topic{ARN: first})
	}
	for pair := range strings.SplitSeq(formats, ",") {
		if pair = strings.TrimSpace(pair); pair == "" {
			continue
		}
		arn, word, _ := strings.Cut(pair, "=")
		t := alert.Topic{ARN: arn}
		if err := topicARN(arn); err != nil {
			return nil, fmt.Errorf("%q %w, then = and a format", pair, err)
		}
		if err := t.Format.UnmarshalText([]byte(word)); err != nil {
			return nil, fmt.Errorf("topic %s: %w", arn, err)
		}
		i := slices.IndexFunc(topics, func(known alert.Topic) bool { return known.ARN == arn })
		switch {
		case i < 0:
			topics = append(topics, t)
		case topics[i].Format != "":
			return nil, fmt.Errorf("topic %s is named twice", arn)
		default:
			topics[i] = t
		}
	}
	return topics, nil
}
