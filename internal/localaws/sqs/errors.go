package sqs

import "github.com/cmkeeper/cmkeeper/internal/localaws/wire"

// queryCodes are the errors that the query protocol names differently
// (the awsQueryError traits of the service's model).
var queryCodes = map[string]string{
	"BatchEntryIdsNotDistinct":     "AWS.SimpleQueueService.BatchEntryIdsNotDistinct",
	"BatchRequestTooLong":          "AWS.SimpleQueueService.BatchRequestTooLong",
	"EmptyBatchRequest":            "AWS.SimpleQueueService.EmptyBatchRequest",
	"InvalidBatchEntryId":          "AWS.SimpleQueueService.InvalidBatchEntryId",
	"InvalidParameterValue":        "InvalidParameterValue",
	"KmsAccessDenied":              "KMS.AccessDeniedException",
	"KmsDisabled":                  "KMS.DisabledException",
	"KmsInvalidState":              "KMS.KMSInvalidStateException",
	"KmsNotFound":                  "KMS.NotFoundException",
	"MessageNotInflight":           "AWS.SimpleQueueService.MessageNotInflight",
	"MissingParameter":             "MissingParameter",
	"PurgeQueueInProgress":         "AWS.SimpleQueueService.PurgeQueueInProgress",
	"QueueDeletedRecently":         "AWS.SimpleQueueService.QueueDeletedRecently",
	"QueueDoesNotExist":            "AWS.SimpleQueueService.NonExistentQueue",
	"QueueNameExists":              "QueueAlreadyExists",
	"TooManyEntriesInBatchRequest": "AWS.SimpleQueueService.TooManyEntriesInBatchRequest",
	"UnsupportedOperation":         "AWS.SimpleQueueService.UnsupportedOperation",
}

func errorf(code, format string, args ...any) *wire.Error {
	e := wire.Errorf(400, code, format, args...)
	e.QueryCode = queryCodes[code]
	return e
}

func invalidValue(value any, parameter, reason string) *wire.Error {
	return errorf("InvalidParameterValue", "Value %v for parameter %s is invalid. Reason: %s", value, parameter, reason)
}

func missing(parameter string) *wire.Error {
	return errorf("MissingParameter", "The request must contain the parameter %s.", parameter)
}

func noQueue() *wire.Error {
	return errorf("QueueDoesNotExist", "The specified queue does not exist.")
}
