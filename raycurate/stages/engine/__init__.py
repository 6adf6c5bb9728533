"""What the stages share: work by shard, pools of actors, what a noun was made from, what is current."""
