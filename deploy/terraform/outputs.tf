# Made from ../cloudformation/cmkeeper.yaml: UPDATE_DOCS=1 go test ./deploy -run Terraform

output "alert_topic" {
  description = "Subscribe here."
  value       = aws_cloudformation_stack.this.outputs["AlertTopic"]
}

output "canary_key" {
  description = "The key of the canary."
  value       = aws_cloudformation_stack.this.outputs["CanaryKey"]
}

output "events_queue_url" {
  description = "CMKEEPER_EVENTS_QUEUE_URL for commands that people run."
  value       = aws_cloudformation_stack.this.outputs["EventsQueueUrl"]
}

output "events_role" {
  description = "The role of the tasks that guard keys."
  value       = aws_cloudformation_stack.this.outputs["EventsRole"]
}

output "jobs_queue_url" {
  description = "CMKEEPER_JOBS_QUEUE_URL for commands that people run."
  value       = aws_cloudformation_stack.this.outputs["JobsQueueUrl"]
}

output "jobs_role" {
  description = "The role of the tasks that move data."
  value       = try(aws_cloudformation_stack.this.outputs["JobsRole"], null)
}

output "log_group" {
  description = "The log of all tasks."
  value       = aws_cloudformation_stack.this.outputs["LogGroup"]
}

output "state_bucket" {
  description = "CMKEEPER_STATE_BUCKET for commands that people run."
  value       = aws_cloudformation_stack.this.outputs["StateBucket"]
}
